"""`finmaas chat`: asks an endpoint through the gateway, as any application would."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli.options import (
    DEFAULT_PROJECT,
    SERVING,
    JsonOption,
    ProjectOption,
    complete_endpoint,
    connect,
)
from finmaas_platform.cli.terminal import format_number, print_json, say

if TYPE_CHECKING:
    from finmaas_platform.cli.gateway import Asker, Message


def register(root: typer.Typer) -> None:
    """Adds the command to the CLI."""
    root.command("chat", rich_help_panel=SERVING)(chat)


def chat(
    endpoint: Annotated[
        str,
        typer.Argument(help="Endpoint, as name or tenant/project/name.", autocompletion=complete_endpoint),
    ],
    text: Annotated[
        str | None, typer.Argument(help="What to say (default: from a pipe, or a conversation).", show_default=False)
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar="FINMAAS_KEY",
            help="API key (default: one made for this command and kept beside the admin token).",
            show_default=False,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0: always the likeliest.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Ask an endpoint through the gateway; the answer comes as it is made.

    Without a text, reads it from a pipe, or holds a conversation until Ctrl-D.

    Example: finmaas chat intents "my card has not arrived yet"

    Example: echo "卡片一直没有寄到" | finmaas chat intents
    """
    from finmaas_platform.cli.gateway import Asker

    with connect() as client, Asker(client, project, endpoint, key, max_tokens, temperature) as asker:
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        if text is None and sys.stdin.isatty():
            _converse(asker, messages)
            return
        asked = text if text is not None else sys.stdin.read().strip()
        if not asked:
            raise typer.BadParameter("there is nothing to say: give a text, or pipe one in")
        _ask_once(asker, [*messages, {"role": "user", "content": asked}], as_json=as_json)


def _ask_once(asker: Asker, messages: list[Message], *, as_json: bool) -> str:
    for piece in asker.ask(messages):
        if not as_json:
            typer.echo(piece, nl=False)
    answer = asker.answer
    if as_json:
        print_json(answer.to_json())
        return answer.text
    typer.echo()
    speed = f" · {format_number(answer.tokens_per_s)} tokens/s" if answer.tokens_per_s else ""
    if sys.stderr.isatty():
        say(f"{answer.completion_tokens} tokens · first after {answer.ttft_ms:.0f} ms{speed} · {answer.finish_reason}")
    return answer.text


def _converse(asker: Asker, messages: list[Message]) -> None:
    say("Ctrl-D ends the conversation.")
    while True:
        try:
            asked = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if asked:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": _ask_once(asker, messages, as_json=False)})
