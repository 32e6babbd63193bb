"""The smallest Serve application, for the contract of clusters: it needs no model."""

from __future__ import annotations

from typing import Any

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Hello:
    def __init__(self, answer: str) -> None:
        self._answer = answer

    def __call__(self) -> str:
        return self._answer


def build_app(args: dict[str, Any]) -> Any:
    return Hello.bind(args["answer"])
