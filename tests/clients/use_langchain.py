"""LangChain, as an application uses it; prints what it saw as one line of JSON."""

import json
import os

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

options = {
    "base_url": os.environ["FINMAAS_URL"] + "/v1",
    "api_key": os.environ["FINMAAS_KEY"],
    "model": os.environ["FINMAAS_MODEL"],
    "max_retries": 0,
}
chat = ChatOpenAI(**options, max_tokens=8)
seen = {"chat": chat.invoke("hi").content}
pieces = list(chat.stream("hi"))
seen["stream"] = "".join(piece.content for piece in pieces)
responses = ChatOpenAI(**options, max_tokens=16, use_responses_api=True)
seen["responses"] = responses.invoke("hi").text
seen["responses_stream"] = "".join(piece.text for piece in responses.stream("hi"))

if not os.environ.get("FINMAAS_LIVE"):
    schema = {"title": "City", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    seen["tool"] = (
        chat.bind_tools([{"name": "weather", "description": "w", "parameters": schema}]).invoke("hi").tool_calls
    )
    seen["schema"] = chat.with_structured_output(schema, method="json_schema").invoke("hi")
    embeddings = OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    seen["embedding"] = embeddings.embed_documents(["a", "b"])[1]
print(json.dumps(seen))
