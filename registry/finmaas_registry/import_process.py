"""An import in a process of its own, so that converting a million rows takes nothing from whoever asked for it.

    python -m finmaas_registry.import_process    reads one job from standard input and answers on standard output

The asker keeps standard input open: when it ends, because the asker is gone, this process and its workers end too.
What was made lies in the scratch folder, which belongs to the asker; the store's credentials never come here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from finmaas_core.errors import BadRow, EnvironmentFault, FinmaasError, InvalidInput, StoreFull, Unavailable
from finmaas_registry.dataset_import import ConvertedDataset, ImportOptions, convert_file, convert_stored
from finmaas_registry.import_blocks import StoredRows
from finmaas_registry.readers.table import Limits
from finmaas_registry.splits import Fractions
from finmaas_registry.tags import Tags

NICENESS = 5
"""Conversions give way to everything else on the machine."""
_RAISED: dict[str, type[FinmaasError]] = {
    kind.code: kind for kind in (BadRow, InvalidInput, StoreFull, Unavailable, EnvironmentFault)
}


@dataclass(frozen=True)
class StoredJob:
    """Rows of a version that is there already, to be made a version anew."""

    rows: list[StoredRows]
    schema: list[dict[str, str]]
    shape: str


def convert_apart(
    name: str, folder: Path, options: ImportOptions, *, path: Path | None = None, stored: StoredJob | None = None
) -> ConvertedDataset:
    """`convert_file` (of `path`) or `convert_stored` in a process of its own. Raises what they raise."""
    job = {
        "name": name,
        "folder": str(folder),
        "path": None if path is None else str(path),
        "stored": None if stored is None else asdict(stored),
        "options": {**asdict(options), "index_key": options.index_key.hex()},
    }
    argv = [sys.executable, "-m", "finmaas_registry.import_process"]
    # What it says besides goes to a file: a pipe that nobody reads until the end would hold it up when it is full.
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job, default=str).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.read()
        finally:
            process.stdin.close()
        process.wait()
        words.seek(0)
        said = words.read()
    return _read_answer(answer, said.decode(errors="replace"), process.returncode)


def _read_answer(answer: bytes, said: str, code: int) -> ConvertedDataset:
    if code != 0 or not answer:
        raise EnvironmentFault(
            f"the process that converts rows ended with {code}; give it more memory and import again: {said[-3000:]}"
        )
    found = json.loads(answer)
    if error := found.get("error"):
        raise _RAISED.get(error["code"], EnvironmentFault)(error["message"], **error["details"])
    made = found["made"]
    made["files"] = {path: Path(file) for path, file in made["files"].items()}
    return ConvertedDataset(**{**made, "index": Path(made["index"])})


class _NoPandas(MetaPathFinder):
    """Arrow looks for pandas at its first conversion, and would spend a second on loading what is never used here."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=fullname)


def main() -> None:
    """Does one job and answers with what was made, or the error a user should see."""
    os.nice(NICENESS)
    sys.meta_path.insert(0, _NoPandas())
    job = json.loads(sys.stdin.buffer.readline())
    try:
        made = _convert(job)
        answer: dict[str, Any] = {"made": {**asdict(made), "files": {k: str(v) for k, v in made.files.items()}}}
        answer["made"]["index"] = str(made.index)
    except FinmaasError as error:
        answer = {"error": {"code": error.code, "message": error.message, "details": error.details}}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a thread still watches standard input


def _convert(job: dict[str, Any]) -> ConvertedDataset:
    options = _to_options(job["options"])
    folder = Path(job["folder"])
    if stored := job["stored"]:
        rows = [StoredRows(Path(r["path"]), r["split"], r["row_group"], tuple(r["without"])) for r in stored["rows"]]
        return convert_stored(job["name"], rows, stored["schema"], stored["shape"], folder, options)
    return convert_file(Path(job["path"]), job["name"], folder, options)


def _to_options(given: dict[str, Any]) -> ImportOptions:
    return ImportOptions(
        **{
            **given,
            "fractions": Fractions(**given["fractions"]),
            "tags": Tags(**given["tags"]),
            "limits": Limits(**given["limits"]),
            "index_key": bytes.fromhex(given["index_key"]),
        }
    )


if __name__ == "__main__":
    main()
