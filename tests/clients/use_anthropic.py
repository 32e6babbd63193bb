"""Anthropic's Python client, as an application uses it; prints what it saw as one line of JSON."""

import json
import os

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ["FINMAAS_URL"], api_key=os.environ["FINMAAS_KEY"], timeout=60, max_retries=0
)
model = os.environ["FINMAAS_MODEL"]
ask = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
seen = {"client": f"anthropic {anthropic.__version__}"}

answer = client.messages.create(**ask)
seen["message"] = answer.content[0].text
seen["usage"] = answer.usage.output_tokens
with client.messages.stream(**ask) as stream:
    seen["stream"] = "".join(stream.text_stream)
    final = stream.get_final_message()
    seen["final"] = final.content[0].text
    seen["stream_usage"] = final.usage.output_tokens
seen["tokens"] = client.messages.count_tokens(model=model, messages=ask["messages"]).input_tokens

if not os.environ.get("FINMAAS_LIVE"):
    tool = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    seen["tool"] = client.messages.create(**ask, tools=[tool]).content[0].input
    with client.messages.stream(**ask, tools=[tool]) as stream:
        seen["tool_stream"] = stream.get_final_message().content[0].input

errors = {}
for name, call in {
    "model": lambda: client.messages.create(**{**ask, "model": "none"}),
    "key": lambda: client.with_options(api_key="fmk_wrong").messages.create(**ask),
    "remote": lambda: client.messages.create(
        model=model,
        max_tokens=8,
        messages=[
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://10.0.0.1/x.png"}}]}
        ],
    ),
}.items():
    try:
        call()
    except anthropic.APIStatusError as error:
        errors[name] = [type(error).__name__, error.body["error"]["type"]]
seen["errors"] = errors
print(json.dumps(seen))
