"""`finmaas model|dataset export` and `import-archive`: versions as files, for sites without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finmaas_platform.cli import datasets, models
from finmaas_platform.cli.options import DEFAULT_PROJECT, JsonOption, ProjectOption, connect
from finmaas_platform.cli.terminal import format_bytes, print_json, say, show_object

if TYPE_CHECKING:
    from finmaas_platform.sdk.objects import Origin

OutOption = Annotated[
    Path, typer.Option("--output", "-o", help="The archive to write; one that is there is replaced.", dir_okay=False)
]
ArchiveArgument = Annotated[
    Path, typer.Argument(help="The archive that an export made.", metavar="FILE", dir_okay=False)
]


def register(_root: typer.Typer) -> None:
    """Adds the commands to `finmaas model` and `finmaas dataset`."""
    models.app.command("export")(export_model)
    models.app.command("import-archive")(import_model)
    models.app.command("origin")(show_origin)
    datasets.app.command("export")(export_dataset)
    datasets.app.command("import-archive")(import_dataset)


def export_model(
    ref: models.RefArgument, output: OutOption, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False
) -> None:
    """Write one version to a file, with its manifest, lineage and signature, for a site without a network.

    Example: finmaas model export intents@3 -o intents-3.tar
    """
    _export("model", ref, output, project, as_json)


def export_dataset(
    ref: datasets.RefArgument, output: OutOption, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False
) -> None:
    """Write one version to a file, with its manifest and statistics, for a site without a network.

    Example: finmaas dataset export questions@2 -o questions-2.tar
    """
    _export("dataset", ref, output, project, as_json)


def import_model(
    file: ArchiveArgument,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Model that this becomes a version of (default: its own).")
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    base: Annotated[
        str | None,
        typer.Option("--base", help="For an adapter: its base here (default: told by digest).", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Register the version that an archive holds, every byte checked.

    Example: finmaas model import-archive intents-3.tar
    """
    from finmaas_platform.cli.progress import show_bytes

    with connect() as client, show_bytes(f"Importing {file.name}") as on_bytes:
        version = client.version_archives.import_model(file, name, project, base=base, on_progress=on_bytes)
        origin = client.version_archives.origin(version.ref)
    models.show_version(version, as_json)
    if not as_json:
        say(describe_signature(origin))


def show_origin(ref: models.RefArgument, project: ProjectOption = DEFAULT_PROJECT, as_json: JsonOption = False) -> None:
    """Show where a version was before it was imported here, and whether its signature held.

    Example: finmaas model origin intents@3
    """
    with connect() as client:
        origin = client.version_archives.origin(ref, project)
    told = origin.document
    fields = (
        ("source", origin.source),
        ("version there", told.get("ref")),
        ("digest there", str(told.get("digest", ""))[:16]),
        ("state there", told.get("state")),
        ("exported by", told.get("exported_by")),
        ("imported", origin.imported_at),
        ("by", origin.imported_by),
        ("signature", describe_signature(origin)),
    )
    show_object(origin, fields, as_json=as_json)


def describe_signature(origin: Origin) -> str:
    """What became of the signature that a version brought along."""
    if origin.verified_by is not None:
        return f"Signed there; it holds under the trusted key {origin.verified_by[:16]}. Here it is a candidate."
    if origin.document.get("signature") is None:
        return "It bears no signature; it is a candidate here."
    return "It bears a signature that was not checked: no trust root is configured here (FINMAAS_TRUST_ROOT)."


def import_dataset(
    file: ArchiveArgument,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Dataset that this becomes a version of (default: its own).")
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    splits: Annotated[
        str | None, typer.Option("--splits", help="Shares of the splits, if not 0.8,0.1,0.1.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import the rows that an archive holds, every byte checked, with reports made here.

    Example: finmaas dataset import-archive questions-2.tar
    """
    from finmaas_platform.cli.progress import show_bytes

    with connect() as client, show_bytes(f"Importing {file.name}") as on_bytes:
        version = client.version_archives.import_dataset(file, name, project, splits=splits, on_progress=on_bytes)
    datasets.show_version(version, as_json)


def _export(kind: str, ref: str, output: Path, project: str, as_json: bool) -> None:
    from finmaas_platform.cli.progress import show_bytes

    with connect() as client:
        version = (client.models if kind == "model" else client.datasets).version(ref, project)
        with show_bytes(f"Exporting {version.ref}") as on_bytes:
            client.version_archives.export(version, output, on_progress=on_bytes)
    size = output.stat().st_size
    if as_json:
        print_json({"ref": version.ref, "digest": version.digest, "file": str(output), "size_bytes": size})
        return
    say(f"Wrote {version.ref} to {output} ({format_bytes(size)}).")
    say(f"There: finmaas {kind} import-archive {output.name}")
