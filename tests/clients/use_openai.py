"""OpenAI's Python client, as an application uses it; prints what it saw as one line of JSON."""

import json
import os

import openai

client = openai.OpenAI(
    base_url=os.environ["FINMAAS_URL"] + "/v1", api_key=os.environ["FINMAAS_KEY"], timeout=60, max_retries=0
)
model = os.environ["FINMAAS_MODEL"]
messages = [{"role": "user", "content": "hi"}]
weather = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
seen = {"client": f"openai {openai.__version__}"}

answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
seen["chat"] = answer.choices[0].message.content
seen["chat_model"] = answer.model
chunks = list(
    client.chat.completions.create(
        model=model, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
)
seen["chat_stream"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
seen["chat_usage"] = chunks[-1].usage.completion_tokens

response = client.responses.create(model=model, input="hi", max_output_tokens=8)
seen["response"] = response.output_text
seen["response_usage"] = response.usage.output_tokens
with client.responses.stream(model=model, input="hi", max_output_tokens=8) as stream:
    seen["response_stream"] = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    seen["response_final"] = stream.get_final_response().output_text

seen["completion"] = client.completions.create(model=model, prompt="hi", max_tokens=8).choices[0].text
seen["models"] = [one.id for one in client.models.list()]

if not os.environ.get("FINMAAS_LIVE"):
    tool = client.chat.completions.create(
        model=model, messages=messages, tools=[{"type": "function", "function": weather}]
    )
    seen["tool"] = tool.choices[0].message.tool_calls[0].function.arguments
    called = client.responses.create(model=model, input="hi", tools=[{"type": "function", **weather}])
    seen["response_tool"] = called.output[0].arguments
    schema = {"name": "city", "schema": weather["parameters"]}
    bound = client.chat.completions.create(
        model=model, messages=messages, response_format={"type": "json_schema", "json_schema": schema}
    )
    seen["schema"] = bound.choices[0].message.content
    seen["embedding"] = client.embeddings.create(model=model, input=["a", "b"]).data[1].embedding

errors = {}
for name, call in {
    "store": lambda: client.responses.create(model=model, input="hi", store=True),
    "previous": lambda: client.responses.create(model=model, input="hi", previous_response_id="resp_1"),
    "model": lambda: client.chat.completions.create(model="none", messages=messages),
    "key": lambda: client.with_options(api_key="fmk_wrong").models.list(),
}.items():
    try:
        call()
    except openai.APIStatusError as error:
        errors[name] = [type(error).__name__, error.param]
seen["errors"] = errors
print(json.dumps(seen))
