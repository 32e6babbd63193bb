"""The root of the command tree: turns errors into one panel with the next step, and never shows a traceback."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from finmaas_core.errors import FinmaasError

FAILED = 1
INTERRUPTED = 130

# For messages that do not say themselves what to do.
NEXT_STEPS = {
    "not_authenticated": "Set FINMAAS_TOKEN, or make a token: finmaas token create <principal>",
    "not_allowed": "Ask a tenant-admin for the role; `finmaas whoami` shows yours.",
    "not_found": "Look what there is with the noun's list command, e.g. finmaas model list",
    "unavailable": "finmaas status shows what runs; finmaas doctor checks this machine.",
    "environment": "finmaas doctor checks this machine.",
    "internal": "finmaas logs control-plane shows what happened.",
}


class FinmaasGroup(TyperGroup):
    """The root command."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; errors become a panel (or, with --json, a JSON object) on stderr and an exit code."""
        from finmaas_core.errors import FinmaasError

        rest = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        as_json = "--json" in rest
        try:
            return super().invoke(ctx)
        except FinmaasError as error:
            show_error(error, as_json=as_json)
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # the outermost edge: whatever it is, the user gets words
            if _belongs_to_click(error):
                raise
            show_defect(error)
            raise typer.Exit(FAILED) from None


def _belongs_to_click(error: Exception) -> bool:
    """Usage errors, exits and a reader that closed the pipe are handled by the framework itself."""
    if isinstance(error, typer.Exit | typer.Abort):
        return True
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return True
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def show_error(error: FinmaasError, *, as_json: bool = False) -> None:
    """An error as a panel, or as JSON, on stderr."""
    if as_json:
        document = {"code": error.code, "message": error.message, **error.details}
        print(json.dumps({"error": document}, indent=2, ensure_ascii=False, default=str), file=sys.stderr)
        return
    print_panel(_title_of(error.code), error.message, find_next_step(error))


def find_next_step(error: FinmaasError) -> str:
    """What to do next; empty when the message says it itself: by a command, or after a semicolon."""
    says_it = "`" in error.message or "; " in error.message
    return "" if says_it else NEXT_STEPS.get(error.code, "")


def show_defect(error: Exception) -> None:
    """An error that should not have been: said as such, with the way to the traceback."""
    if os.environ.get("FINMAAS_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    where = "Run it again with FINMAAS_DEBUG=1 for the traceback, and send that with a report."
    print_panel("this is a defect of finmaas", f"{type(error).__name__}: {error}", where)


def print_panel(title: str, message: str, next_step: str = "") -> None:
    """A red panel on stderr; plain lines where stderr is no terminal."""
    from rich.panel import Panel
    from rich.text import Text

    from finmaas_platform.cli.terminal import make_console

    console = make_console(stderr=True)
    body = Text(message)
    if next_step:
        body.append("\n\nNext: ", style="bold")
        body.append(next_step)
    if console.is_terminal:
        console.print(Panel(body, title=f"Error: {title}", title_align="left", border_style="red"))
        return
    console.print(f"Error: {title}: {message}", markup=False, soft_wrap=True)
    if next_step:
        console.print(f"Next: {next_step}", markup=False, soft_wrap=True)


def _title_of(code: str) -> str:
    return code.replace("_", " ")
