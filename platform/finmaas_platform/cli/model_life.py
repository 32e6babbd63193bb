"""`finmaas model promote|approve|reject|retire|history`, `model alias …` and `model rules …`: the life of versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.options import DEFAULT_PROJECT, JsonOption, ProjectOption, complete_model, connect
from finmaas_platform.cli.terminal import Column, make_console, print_fields, print_json, print_table, say, show_items

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import ModelVersion, Verdict, Verification

alias_app = typer.Typer(no_args_is_help=True, help="Aliases: names such as production that point at a version.")
rules_app = typer.Typer(no_args_is_help=True, help="Rules: what a project asks of a version before it is approved.")
RefArgument = Annotated[
    str, typer.Argument(help="The version, as name@3 or name@alias.", metavar="MODEL", autocompletion=complete_model)
]
NameArgument = Annotated[str, typer.Argument(help="The model.", metavar="MODEL", autocompletion=complete_model)]
AliasArgument = Annotated[str, typer.Argument(help="Name of the alias, e.g. production.", metavar="ALIAS")]
NoteOption = Annotated[str, typer.Option("--note", "-m", help="Why, for the history.", show_default=False)]
ALIASES = (
    Column("Alias", lambda a: a.name),
    Column("Points at", lambda a: a.points_at),
    Column("State", lambda a: a.state),
    Column("Moved", lambda a: a.updated_at),
    Column("By", lambda a: a.updated_by),
)
EVENTS = (
    Column("When", lambda e: e.at),
    Column("What", lambda e: e.action if e.alias is None else f"{e.action} {e.alias}"),
    Column("From", lambda e: e.before),
    Column("To", lambda e: e.after),
    Column("By", lambda e: e.by),
    Column("Note", lambda e: e.note, fold=True),
)
OUTCOMES = (
    Column("", lambda o: "✓" if o.passed else "✗"),
    Column("Rule", lambda o: o.rule["kind"]),
    Column("Why", lambda o: o.why, fold=True),
    Column("说明", lambda o: o.why_zh, fold=True),
)
FAILS = 3


def register(models: typer.Typer) -> None:
    """Adds the commands to `finmaas model`."""
    models.command("promote")(promote)
    models.command("approve")(approve)
    models.command("reject")(reject)
    models.command("retire")(retire)
    models.command("history")(show_history)
    models.command("verify")(verify)
    models.command("key")(show_key)
    models.add_typer(alias_app, name="alias")
    models.add_typer(rules_app, name="rules")


def promote(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    to: Annotated[
        str | None, typer.Option("--to", help="Point this alias at it, e.g. production.", show_default=False)
    ] = None,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Validate a candidate by the project's rules; with --to, point an alias at a version instead.

    Example: finmaas model promote intents@3 --to canary
    """
    with connect() as client:
        if to is None:
            _show_moved(client.models.life.validate(ref, project, note=note), as_json)
            return
        alias = client.models.life.set_alias(ref, to, project, note=note)
    if as_json:
        print_json(alias.to_json())
    else:
        say(f"{alias.name} points at {alias.points_at} ({alias.state}) now.")


def approve(
    ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, note: NoteOption = "", as_json: JsonOption = False
) -> None:
    """Approve a validated version; its author cannot, nor one whose principal or token its author made.

    Example: finmaas model approve intents@3 --note "scores hold on the November rows"
    """
    with connect() as client:
        _show_moved(client.models.life.approve(ref, project, note=note), as_json)


def reject(
    ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, note: NoteOption = "", as_json: JsonOption = False
) -> None:
    """Send a validated version back to candidate.

    Example: finmaas model reject intents@3 --note "confuses two intents"
    """
    with connect() as client:
        _show_moved(client.models.life.reject(ref, project, note=note), as_json)


def retire(
    ref: RefArgument, project: ProjectOption = DEFAULT_PROJECT, note: NoteOption = "", as_json: JsonOption = False
) -> None:
    """End a version's life: nothing is deployed or trained from it any more. Refused while it is in use.

    Example: finmaas model retire intents@1
    """
    with connect() as client:
        _show_moved(client.models.life.retire(ref, project, note=note), as_json)


def show_history(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    alias: Annotated[str | None, typer.Option("--alias", help="Only of this alias.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show who moved versions and aliases of a model, and why. With name@3, of that version.

    Example: finmaas model history intents --alias production
    """
    with connect() as client:
        events = client.models.life.history(ref, project, alias=alias)
        show_items(events, EVENTS, as_json=as_json, empty="Nothing was moved yet.")


def verify(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Also compare this folder, file by file.", file_okay=False, show_default=False),
    ] = None,
    trust_root: Annotated[
        Path | None,
        typer.Option(
            "--trust-root",
            envvar="FINMAAS_TRUST_ROOT",
            help="PEM file of the public keys that you trust; without it the platform's own key counts.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a version: the platform reads every byte anew, and the signature is checked here. Exit code 3 if not.

    Example: finmaas model verify intents@3 --folder ./intents --trust-root approvers.pem
    """
    from finmaas_core.errors import Corrupt

    with connect() as client:
        stored = client.models.trust.verify_stored(ref, project)
        faults = list(stored.faults)
        try:
            version = client.models.version(ref, project)
            key_id = client.models.trust.check(version, trust_root)
            if folder is not None:
                client.models.trust.check_folder(version, folder, trust_root)
        except Corrupt as error:
            key_id = None
            faults.append(error.message)
    passed = stored.passed and not faults
    if as_json:
        print_json({**stored.to_json(), "passed": passed, "faults": faults, "local_key_id": key_id})
    else:
        _show_verification(stored, passed, faults, key_id)
    raise typer.Exit(0 if passed else FAILS)


def show_key(as_json: JsonOption = False) -> None:
    """Print the public key that approvals are signed with, for a trust root. Compare its id on another way first.

    Example: finmaas model key > approvers.pem
    """
    import hashlib

    with connect() as client:
        pem = client.models.trust.public_key()
    key_id = hashlib.sha256(pem.encode()).hexdigest()
    if as_json:
        print_json({"key_id": key_id, "pem": pem})
        return
    typer.echo(pem, nl=False)
    say(f"key id {key_id}")


@alias_app.command("list")
def list_aliases(name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """List the aliases of a model.

    Example: finmaas model alias list intents
    """
    with connect() as client:
        empty = f"No alias yet: finmaas model alias set canary {name}@<version>"
        show_items(client.models.life.aliases(name, project), ALIASES, as_json=as_json, empty=empty)


@alias_app.command("set")
def set_alias(
    alias: AliasArgument,
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    note: NoteOption = "",
    as_json: JsonOption = False,
) -> None:
    """Point an alias at a version, at once for everybody; a new one is made.

    Example: finmaas model alias set production intents@3
    """
    promote(ref, project, alias, note, as_json)


@alias_app.command("remove")
def remove_alias(
    alias: AliasArgument, name: NameArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False
) -> None:
    """Take an alias away; what was deployed by it stays.

    Example: finmaas model alias remove canary intents
    """
    with connect() as client:
        client.models.life.remove_alias(name, alias, project)
    if as_json:
        print_json({"removed": alias})
    else:
        say(f"{name} has no alias {alias} any more.")


@rules_app.command("show")
def show_rules(project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show the rules of a project, as they can be given to `set`.

    Example: finmaas model rules show > rules.yaml
    """
    with connect() as client:
        rules = client.models.life.rules(project)
    if as_json:
        print_json(rules.to_json())
        return
    import yaml  # type: ignore[import-untyped]

    typer.echo(yaml.safe_dump(rules.document, allow_unicode=True, sort_keys=False), nl=False)


@rules_app.command("set")
def set_rules(
    file: Annotated[Path, typer.Argument(help="The rules, as YAML or JSON.", dir_okay=False)],
    project: ProjectOption = DEFAULT_PROJECT,
    as_json: JsonOption = False,
) -> None:
    """Set the rules of a project; what is approved already stays so.

    Example: finmaas model rules set rules.yaml --project retail/service
    """
    document = read_document(file)
    with connect() as client:
        rules = client.models.life.set_rules(project, document)
    if as_json:
        print_json(rules.to_json())
    else:
        say(f"{rules.project} asks {len(rules.document.get('rules', ()))} rules now (version {rules.version}).")


@rules_app.command("try")
def try_rules(
    ref: RefArgument,
    project: ProjectOption = DEFAULT_PROJECT,
    file: Annotated[
        Path | None, typer.Option("--file", help="Rules that are not set yet.", dir_okay=False, show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the rules say of a version, and whether you could approve it. Exit code 3 where one does not hold.

    Example: finmaas model rules try intents@3
    """
    document = None if file is None else read_document(file)
    with connect() as client:
        verdict = client.models.life.verdict(ref, project, document)
    if as_json:
        print_json(verdict.to_json())
    else:
        _show_verdict(verdict)
    raise typer.Exit(0 if verdict.passed else FAILS)


def read_document(file: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds an object; InvalidInput."""
    import yaml

    from finmaas_core.errors import InvalidInput

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{file} cannot be read as YAML or JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{file} holds no rules; `finmaas model rules show` prints some to begin with")
    return document


def _show_moved(version: ModelVersion, as_json: bool) -> None:
    if as_json:
        print_json(version.to_json())
        return
    say(f"{version.ref} is {version.state} now.")
    if version.state == "validated":
        say(f"Next, by an approver: finmaas model approve {version.ref}")
    elif version.state == "approved":
        say(f"Next: finmaas model alias set production {version.ref}")


def _show_verification(stored: Verification, passed: bool, faults: list[str], key_id: str | None) -> None:
    root = "the trust root given here" if key_id else f"the platform's {stored.trust_root} trust root"
    print_fields(
        (
            ("version", stored.version),
            ("digest", stored.digest),
            ("bytes", f"{stored.files} files read anew"),
            ("signature", stored.signature),
            ("signed by key", (key_id or stored.key_id or "")[:16]),
            ("trusted by", root if key_id or stored.key_id else None),
            ("verdict", "holds" if passed else "does not hold"),
        )
    )
    for fault in faults:
        say(f"✗ {fault}")


def _show_verdict(verdict: Verdict) -> None:
    if verdict.outcomes:
        print_table(verdict.outcomes, OUTCOMES)
    else:
        make_console().print("The project asks no rules.")
    if verdict.approver_fault:
        say(f"You could not approve it: {verdict.approver_fault}")
