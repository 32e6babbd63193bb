"""`finmaas up | down | status | doctor | logs | backup | restore`: the embedded installation from the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from finmaas_platform.embedded.doctor import Finding
    from finmaas_platform.embedded.lifecycle import Status

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Data folder (default: FINMAAS_HOME, the nearest .finmaas above, ~/.finmaas).",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
PANEL = "This machine"


def register(app: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    for name, command in (
        ("up", up),
        ("down", down),
        ("status", status),
        ("doctor", doctor),
        ("logs", logs),
        ("backup", backup),
        ("restore", restore),
    ):
        app.command(name, rich_help_panel=PANEL)(command)


def up(
    home: HomeOption = None,
    port_base: Annotated[
        int | None,
        typer.Option(
            help="First port of the block to listen on (default: 8100, or what this home used before).",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start the platform on this machine and wait until everything answers.

    Example: finmaas up --home ~/finmaas-data --port-base 8300
    """
    from rich.console import Console

    from finmaas_platform.cli.terminal import quiet_logs
    from finmaas_platform.embedded.lifecycle import ensure_up, status_json

    quiet_logs()
    console = Console(stderr=True)
    started = time.monotonic()
    if console.is_terminal:
        with console.status("starting …") as spinner:
            found = ensure_up(home, port_base, lambda event: spinner.update(f"{event} …"))
    else:
        found = ensure_up(home, port_base, lambda event: console.print(event, markup=False))
    if as_json:
        typer.echo(status_json(found))
        return
    out = Console()
    out.print(status_table(found))
    out.print(f"Up after {time.monotonic() - started:.0f} s. Data folder: {found.home}", highlight=False)
    out.print("Next: finmaas dataset import, finmaas train, finmaas deploy; finmaas down stops it.", highlight=False)


def down(home: HomeOption = None) -> None:
    """Stop the platform: every process that it started, and nothing else.

    Example: finmaas down
    """
    from finmaas_platform.embedded.lifecycle import take_down

    count = take_down(home, lambda event: typer.echo(event, err=True))
    typer.echo(f"Stopped {count} process(es)." if count else "Nothing was running.")


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, on which ports, since when. Exits with 1 when a part does not run.

    Example: finmaas status --json
    """
    from rich.console import Console

    from finmaas_core.settings import load_settings
    from finmaas_platform.embedded.lifecycle import read_status, status_json

    found = read_status(load_settings(home))
    if as_json:
        typer.echo(status_json(found))
    else:
        Console().print(status_table(found))
        Console().print(f"Data folder: {found.home}", highlight=False)
    if not found.is_up:
        raise typer.Exit(1)


def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check this machine and installation. Exits with 1 when something must be mended.

    Example: finmaas doctor
    """
    from rich.console import Console

    from finmaas_core.settings import load_settings
    from finmaas_platform.embedded.doctor import Verdict, examine

    findings = examine(load_settings(home))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        Console().print(doctor_table(findings))
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)


def logs(
    part: Annotated[str, typer.Argument(help="supervisor, control-plane, gateway or ray.")] = "control-plane",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end.", min=0)] = 50,
    home: HomeOption = None,
) -> None:
    """Show the log of one process.

    Example: finmaas logs gateway -f
    """
    from finmaas_core.errors import NotFound
    from finmaas_core.home import find_home

    folder = find_home(home).logs
    path = folder / f"{part}.log"
    known = sorted(file.stem for file in folder.glob("*.log"))
    if part not in known:
        raise NotFound(f"no log of {part!r} in {folder}; there are: {', '.join(known) or 'none yet, run `finmaas up`'}")
    for line in read_lines(path, lines, follow=follow):
        typer.echo(line)


def backup(
    target: Annotated[Path, typer.Argument(help="The archive to write, e.g. finmaas.tar.")],
    home: HomeOption = None,
) -> None:
    """Write database, blob store and secrets to one archive; the platform may go on running.

    Example: finmaas backup /mnt/backup/finmaas-2026-11-22.tar
    """
    from finmaas_core.settings import load_settings
    from finmaas_platform.services.backup import backup as write_backup

    write_backup(load_settings(home), target)
    typer.echo(
        f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB). It holds secrets: keep it where only you can read it."
    )


def restore(
    archive: Annotated[Path, typer.Argument(help="An archive written by `finmaas backup`.")],
    home: HomeOption = None,
) -> None:
    """Restore an archive into an empty home folder.

    Example: finmaas restore finmaas.tar --home ~/finmaas-restored
    """
    from finmaas_core.settings import load_settings
    from finmaas_platform.services.backup import restore as read_backup

    settings = load_settings(home)
    read_backup(settings, archive)
    typer.echo(f"Restored into {settings.home}. Next: finmaas up --home {settings.home}")


def read_lines(path: Path, last: int, *, follow: bool) -> Iterator[str]:
    """The last lines of a file, then, if asked, each new one as it comes."""
    with path.open(errors="replace") as file:
        tail = file.readlines()[-last:] if last else []
        yield from (line.rstrip("\n") for line in tail)
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            else:
                time.sleep(0.2)  # a file has no event to wait on


def status_table(found: Status) -> Table:
    """A status as a table."""
    from rich.table import Table

    colours = {"running": "green", "starting": "yellow", "stopped": "red"}
    addresses = {
        "gateway": f"{found.gateway_url}/v1",
        "control-plane": f"{found.api_url}/api/v1",
        "ray": found.dashboard_url,
    }
    table = Table(title="finmaas", title_justify="left")
    for heading in ("Process", "State", "Address", "Pid", "Up for", "Restarts"):
        table.add_column(heading, justify="right" if heading in ("Pid", "Up for", "Restarts") else "left")
    for part in found.parts:
        table.add_row(
            part.name,
            f"[{colours[part.state]}]{part.state}[/]",
            addresses.get(part.name, addresses["gateway"]),  # gateway-2 … share its port
            str(part.pid or "–"),
            format_duration(part.uptime_s) if part.uptime_s is not None else "–",
            str(part.restarts),
        )
    return table


def doctor_table(findings: list[Finding]) -> Table:
    """The doctor's findings as a table."""
    from rich.table import Table

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(title="finmaas doctor", title_justify="left")
    for heading in ("Check", "Found", "", "What to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(finding.check, finding.found, f"[{colours[finding.verdict]}]{finding.verdict}[/]", finding.advice)
    return table


def format_duration(seconds: float) -> str:
    """`95` becomes `1 min 35 s`; minutes and above drop the smaller units once they stop mattering."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
