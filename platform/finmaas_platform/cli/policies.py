"""`finmaas policy`: guardrails and AI marks of a project, and the proof of where an answer came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finmaas_platform.cli.options import SERVING, JsonOption, connect
from finmaas_platform.cli.terminal import Column, make_console, print_json, say, show_items

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Policy, PolicyTrial, Proof

app = typer.Typer(no_args_is_help=True, help="Guardrails and AI marks: what the gateway screens for a project.")
ProjectArgument = Annotated[str, typer.Argument(help="The project, as tenant/project.", metavar="TENANT/PROJECT")]
COLUMNS = (
    Column("Project", lambda p: p.project),
    Column("Rules", lambda p: len(p.document.get("rules", ())) + len(p.document.get("custom", ())), right=True),
    Column("Phrases", lambda p: len(p.document.get("phrases", ())), right=True),
    Column("Mark", lambda p: p.document.get("marks", {}).get("text") or "–"),
    Column("Provenance", lambda p: "yes" if p.document.get("marks", {}).get("provenance") else "no"),
    Column("Set", lambda p: p.updated_at),
)
RULE_COLUMNS = (
    Column("Rule", lambda r: r.name),
    Column("Kind", lambda r: r.group),
    Column("Shown as", lambda r: f"[{r.label}]"),
    Column("Longest match", lambda r: r.max_length, right=True),
)
GENUINE, ALTERED = 0, 3


def register(root: typer.Typer) -> None:
    """Adds the commands to the CLI."""
    root.add_typer(app, name="policy", rich_help_panel=SERVING)


@app.command("list")
def list_policies(as_json: JsonOption = False) -> None:
    """List the policies of your projects.

    Example: finmaas policy list
    """
    with connect() as client:
        empty = "No policy yet: finmaas policy set <tenant>/<project> --preset strict"
        show_items(client.policies.list(), COLUMNS, as_json=as_json, empty=empty)


@app.command("rules")
def list_rules(as_json: JsonOption = False) -> None:
    """List the built-in rules that a policy can name.

    Example: finmaas policy rules
    """
    with connect() as client:
        show_items(client.policies.rules(), RULE_COLUMNS, as_json=as_json, empty="There is no rule.")


@app.command("set")
def set_policy(
    project: ProjectArgument,
    file: Annotated[Path | None, typer.Argument(help="The policy, as YAML or JSON.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="strict, instead of a file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Set the policy of a project; gateways follow within a second.

    Example: finmaas policy set retail/service --preset strict
    """
    if (file is None) == (preset is None) or preset not in (None, "strict"):
        raise typer.BadParameter("give a file, or --preset strict")
    with connect() as client:
        document = client.policies.strict() if file is None else _read(file)
        policy = client.policies.set(project, document)
    _show(policy, as_json)


@app.command("show")
def show_policy(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Show the policy of a project, as it can be given to `set`.

    Example: finmaas policy show retail/service > policy.yaml
    """
    with connect() as client:
        policy = client.policies.get(project)
    if as_json:
        print_json(policy.to_json())
        return
    import yaml  # type: ignore[import-untyped]

    typer.echo(yaml.safe_dump(policy.document, allow_unicode=True, sort_keys=False), nl=False)


@app.command("remove")
def remove_policy(project: ProjectArgument, as_json: JsonOption = False) -> None:
    """Take the policy off a project: nothing of it is screened any more.

    Example: finmaas policy remove retail/service
    """
    with connect() as client:
        client.policies.remove(project)
    if as_json:
        print_json({"project": project, "policy": None})
        return
    say(f"{project} has no policy any more; its requests and answers pass as they are.")


@app.command("test")
def try_policy(
    text: Annotated[str, typer.Argument(help="The text; - reads it from stdin.")],
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="Whose policy (default: strict).", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A policy that is not set yet.", show_default=False)
    ] = None,
    output: Annotated[bool, typer.Option("--output", help="As an answer, not as a request.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a policy finds in a text and what is left of it.

    Example: finmaas policy test "我是王伟，手机13800138000"
    """
    given = sys.stdin.read() if text == "-" else text
    document = None if file is None else _read(file)
    with connect() as client:
        trial = client.policies.test(given, project, document, "output" if output else "input")
    if as_json:
        print_json(trial.to_json())
        return
    _show_trial(given, trial)


@app.command("verify")
def verify_answer(
    file: Annotated[Path, typer.Argument(help="A saved answer, whole or streamed; - reads it from stdin.")],
    save: Annotated[
        Path | None, typer.Option("--save", help="Write a proof that others can check offline.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether an answer came from this installation and is unchanged. Ends with 3 when it is not.

    Example: finmaas policy verify answer.json
    """
    content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    with connect() as client:
        proof = client.policies.prove(content)
        if save is not None and proof.verdict == "genuine":
            _save_proof(save, content, proof, client.policies.provenance_key())
    if as_json:
        print_json(proof.to_json())
    else:
        say(f"{proof.verdict}: {proof.reason}")
    raise typer.Exit(GENUINE if proof.verdict == "genuine" else ALTERED)


@app.command("check-proof")
def check_saved_proof(
    file: Annotated[Path, typer.Argument(help="A proof written by `policy verify --save`.")],
    key: Annotated[Path, typer.Option("--key", help="The public key (PEM) that you trust.")],
    as_json: JsonOption = False,
) -> None:
    """Check a saved proof without asking any platform: the claim, its batch and the signature. Ends with 3 if it fails.

    Example: finmaas policy check-proof proof.json --key provenance.pem
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from finmaas_core.errors import Corrupt, InvalidInput
    from finmaas_platform.domain.provenance import Batch, BatchProof, check_proof

    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        proof = BatchProof(**{**saved["proof"], "batch": Batch(**saved["proof"]["batch"])})
        trusted = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{file} or {key} cannot be read ({error}); write them anew with `policy verify --save`"
        ) from None
    verdict, reason = "genuine", f"in batch {proof.batch.number}, sealed {proof.batch.sealed_at}"
    try:
        check_proof(saved["provenance"], proof, trusted)  # type: ignore[arg-type]
    except Corrupt as error:
        verdict, reason = "altered", error.message
    if as_json:
        print_json({"verdict": verdict, "reason": reason})
    else:
        say(f"{verdict}: {reason}")
    raise typer.Exit(GENUINE if verdict == "genuine" else ALTERED)


@app.command("provenance-key")
def show_provenance_key(as_json: JsonOption = False) -> None:
    """Print the public key (PEM) with which proofs can be checked anywhere.

    Example: finmaas policy provenance-key > provenance.pem
    """
    with connect() as client:
        key = client.policies.provenance_key()
    if as_json:
        print_json({"public_key": key})
    else:
        typer.echo(key, nl=False)


def _save_proof(path: Path, answer: str, proof: Proof, key: str) -> None:
    from finmaas_core.errors import Unavailable
    from finmaas_platform.sdk.saved_answers import read_answer

    if proof.proof is None:
        raise Unavailable("the batch of this answer is not sealed yet; try again in some seconds", retry_after_s=10)
    provenance, _ = read_answer(answer)
    saved = {"provenance": provenance, "proof": proof.proof, "public_key": key}
    path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"The proof is in {path}; `finmaas policy check-proof` checks it anywhere.")


def _read(file: Path) -> dict[str, Any]:
    import yaml

    from finmaas_core.errors import InvalidInput

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{file} cannot be read as YAML or JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{file} holds no policy; `finmaas policy show` prints one to begin with")
    return document


def _show(policy: Policy, as_json: bool) -> None:
    if as_json:
        print_json(policy.to_json())
        return
    rules = len(policy.document["rules"]) + len(policy.document["custom"])
    say(f"{policy.project} is screened by {rules} rules now (version {policy.version}).")


def _show_trial(text: str, trial: PolicyTrial) -> None:
    from rich import box
    from rich.table import Table

    console = make_console()
    if not trial.hits:
        console.print("Nothing found; the text passes as it is.")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("Rule", "Action", "Found"):
        table.add_column(heading, overflow="fold")
    for hit in trial.hits:
        table.add_row(hit.rule, hit.action, json.dumps(text[hit.start : hit.end], ensure_ascii=False))
    console.print(table)
    console.print(
        "Blocked: nothing is let through." if trial.text is None else trial.text, markup=False, soft_wrap=True
    )
