"""LlamaIndex, as an application uses it; prints what it saw as one line of JSON."""

import json
import os

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

base = os.environ["FINMAAS_URL"] + "/v1"
key, model = os.environ["FINMAAS_KEY"], os.environ["FINMAAS_MODEL"]
llm = OpenAILike(model=model, api_base=base, api_key=key, is_chat_model=True, max_tokens=8, max_retries=0)
asked = [ChatMessage(role="user", content="hi")]
seen = {"chat": llm.chat(asked).message.content}
seen["stream"] = "".join(piece.delta or "" for piece in llm.stream_chat(asked))
plain = OpenAILike(model=model, api_base=base, api_key=key, is_chat_model=False, max_tokens=8, max_retries=0)
seen["completion"] = plain.complete("hi").text
if not os.environ.get("FINMAAS_LIVE"):
    seen["embedding"] = OpenAILikeEmbedding(model_name=model, api_base=base, api_key=key).get_text_embedding("a")
print(json.dumps(seen))
