// OpenAI's Node client, as an application uses it; prints what it saw as one line of JSON.
import OpenAI from "openai";

const { FINMAAS_URL, FINMAAS_KEY, FINMAAS_MODEL: model, FINMAAS_LIVE } = process.env;
const client = new OpenAI({ baseURL: `${FINMAAS_URL}/v1`, apiKey: FINMAAS_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const seen = {};

const chat = await client.chat.completions.create({ model, messages, max_tokens: 8 });
seen.chat = chat.choices[0].message.content;
seen.chat_stream = "";
for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 8, stream: true })) {
  seen.chat_stream += chunk.choices[0]?.delta?.content ?? "";
}
seen.response = (await client.responses.create({ model, input: "hi", max_output_tokens: 8 })).output_text;
seen.response_stream = "";
for await (const event of await client.responses.create({ model, input: "hi", max_output_tokens: 8, stream: true })) {
  if (event.type === "response.output_text.delta") seen.response_stream += event.delta;
}
if (!FINMAAS_LIVE) {
  seen.embedding = (await client.embeddings.create({ model, input: ["a", "b"] })).data[1].embedding;
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const called = await client.chat.completions.create({ model, messages, tools });
  seen.tool = called.choices[0].message.tool_calls[0].function.arguments;
}
seen.errors = {};
for (const [name, call] of Object.entries({
  store: () => client.responses.create({ model, input: "hi", store: true }),
  key: () => client.withOptions({ apiKey: "fmk_wrong" }).models.list(),
})) {
  try {
    await call();
  } catch (error) {
    seen.errors[name] = [error.constructor.name, error.param];
  }
}
console.log(JSON.stringify(seen));
