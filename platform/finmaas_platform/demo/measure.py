"""Asks an endpoint through the gateway with the stock `openai` client, and times it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from finmaas_core.errors import EnvironmentFault, Unavailable

if TYPE_CHECKING:
    import openai

ALONE = 20  # requests one after the other, for the time to first token
TOGETHER = 64  # requests of several clients at once, for tokens a second
CLIENTS = 8
MAX_TOKENS = 32
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Timing:
    """One streamed answer; `seconds` from sending to the last byte."""

    text: str
    completion_tokens: int
    ttft_ms: float
    seconds: float


@dataclass(frozen=True)
class GatewayFigures:
    """What was measured. `tokens_per_s` counts answered tokens over all clients; a label is only a few tokens long, so
    it is bound by requests, not by decoding. `agreement` is the share of answers equal to the label.
    """

    ttft_ms_p50: float
    ttft_ms_p95: float
    tokens_per_s: float
    requests_per_s: float
    tokens_per_answer: float
    clients: int
    requests: int
    agreement: float
    example: tuple[str, str]


def measure_gateway(
    base_url: str,
    key: str,
    model: str,
    rows: Sequence[tuple[str, str]],
    on_progress: Callable[[int, int], None],
) -> GatewayFigures:
    """Asks `rows` (text, expected answer): first one client, then several at once.

    EnvironmentFault without the `openai` package, Unavailable when the gateway gives no answer.
    """
    client = make_openai_client(base_url, key)
    total = 1 + ALONE + TOGETHER
    _ask_patiently(client, model, rows[0][0])
    on_progress(1, total)
    alone = []
    for i in range(ALONE):
        alone.append(ask(client, model, rows[i % len(rows)][0]))
        on_progress(1 + i + 1, total)
    asked = [rows[i % len(rows)] for i in range(TOGETHER)]
    started = time.perf_counter()
    together: list[Timing] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        for timing in pool.map(lambda row: ask(client, model, row[0]), asked):
            together.append(timing)
            on_progress(1 + ALONE + len(together), total)
    seconds = time.perf_counter() - started
    tokens = sum(timing.completion_tokens for timing in together)
    times = sorted(timing.ttft_ms for timing in alone)
    right = [answer.text.strip() == label for answer, (_, label) in zip(together, asked, strict=True)]
    return GatewayFigures(
        ttft_ms_p50=round(statistics.median(times), 1),
        ttft_ms_p95=round(times[int(0.95 * (len(times) - 1))], 1),
        tokens_per_s=round(tokens / seconds, 1),
        requests_per_s=round(len(together) / seconds, 1),
        tokens_per_answer=round(tokens / len(together), 1),
        clients=CLIENTS,
        requests=total,
        agreement=round(sum(right) / len(right), 3),
        example=_choose_example(asked, together),
    )


def _choose_example(asked: Sequence[tuple[str, str]], answers: Sequence[Timing]) -> tuple[str, str]:
    """The shortest question with its answer, of those answered right if there are any: it goes into a command line."""
    pairs = [(text, label, answer.text.strip()) for (text, label), answer in zip(asked, answers, strict=True)]
    right = [pair for pair in pairs if pair[1] == pair[2]]
    text, _, answered = min(right or pairs, key=lambda pair: len(pair[0]))
    return text, answered


def make_openai_client(base_url: str, key: str) -> openai.OpenAI:
    """The stock client, without retries of its own."""
    if find_spec("openai") is None:
        raise EnvironmentFault("the package `openai` is not installed here; `make setup` installs it")
    import openai

    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0, timeout=60)


def ask(client: openai.OpenAI, model: str, text: str) -> Timing:
    """One streamed chat completion."""
    started = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    tokens = 0
    messages: Any = [{"role": "user", "content": text}]
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            if choice.delta.content:
                first = first or time.perf_counter()
                pieces.append(choice.delta.content)
    ended = time.perf_counter()
    return Timing("".join(pieces), tokens or len(pieces), ((first or ended) - started) * 1000, ended - started)


def _ask_patiently(client: openai.OpenAI, model: str, text: str) -> Timing:
    """The first answer: a new key and a new endpoint are known to the gateway within seconds, not at once."""
    import openai

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask(client, model, text)
        except openai.APIConnectionError as error:
            problem = f"no gateway answers at {client.base_url}: {error}"
        except openai.APIStatusError as error:
            problem = f"the gateway answers {error.status_code}: {error.message}"
        if time.monotonic() > deadline:
            raise Unavailable(f"{problem}; `finmaas logs gateway` shows more")
        time.sleep(0.2)  # the gateway takes in its next snapshot: there is nothing to wait on
