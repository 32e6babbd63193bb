"""The gateway's hot path, compiled by mypyc where this machine can; elsewhere the same sources, interpreted (ADR 26).

    python -m finmaas_serving.compiled        compiles, unless these sources are compiled already

What is compiled lies in the environment, in a folder named by the digest of its sources: a source that was edited since
is interpreted until it is compiled again. Only processes that call `install` load it.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

PACKAGE = "finmaas_serving"
MODULES = (
    "gateway.allowance_words",
    "gateway.allowances",
    "gateway.answer",
    "gateway.balance",
    "gateway.body",
    "gateway.bounded",
    "gateway.bounds",
    "gateway.call",
    "gateway.context",
    "gateway.heads",
    "gateway.holds",
    "gateway.journey",
    "gateway.outbox",
    "gateway.protocol",
    "gateway.request",
    "gateway.screen",
    "gateway.slices",
    "gateway.spending",
    "gateway.spool",
    "gateway.sse",
    "gateway.tally",
    "gateway.upstream",
    "gateway.usual",
    "gateway.wire",
    "guard.answer",
    "guard.scanner",
    "guard.window",
)
"""What a request or a chunk runs through. Types that msgspec reads (`gateway/schemas.py`) are not among them."""
_GROUP = "finmaas_gateway"
_SHARED = f"{_GROUP}__mypyc"  # the library that holds the code; the modules are shells around it
_SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
_FLAGS = ("--explicit-package-bases", "--namespace-packages", "--ignore-missing-imports", "--follow-imports=silent")


class _Finder(MetaPathFinder):
    """Finds the compiled modules."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: folder / name for name in (_SHARED, *(f"{PACKAGE}.{name}" for name in MODULES))}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(fullname)
        if file is None:
            return None
        place = f"{file}{_SUFFIX}"
        loader = importlib.machinery.ExtensionFileLoader(fullname, place)
        return importlib.util.spec_from_file_location(fullname, place, loader=loader)


def install() -> bool:
    """Lets this process load what is compiled; call it before any of MODULES is imported. False: nothing is."""
    if not is_here() or os.environ.get("FINMAAS_INTERPRETED"):
        return False
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(_folder()))
    return True


def is_here() -> bool:
    """Whether these sources are compiled in this environment."""
    return (_folder() / f"{_SHARED}{_SUFFIX}").exists()


def compile_all() -> Path:
    """Compiles the sources as they are, and returns the folder. OSError when that fails."""
    folder = _folder()
    if folder.exists():
        return folder
    _base().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_base()) as name:
        made = Path(name)
        command = [sys.executable, "-m", f"{PACKAGE}.compiled", "--build", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=made)
        if done.returncode:
            raise OSError(f"the compiler stopped: {(done.stderr or done.stdout).strip()[-2000:]}")
        out = made / "out"
        out.mkdir()
        for file in (made / "lib").rglob(f"*{_SUFFIX}"):
            parts = file.relative_to(made / "lib").with_name(file.name.removesuffix(_SUFFIX)).parts
            shutil.copy2(file, out / f"{'.'.join(parts)}{_SUFFIX}")
        for old in _base().glob("[0-9a-f]" * 16):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        if not folder.exists():  # another process may have been as quick
            out.rename(folder)
    return folder


def _build(made: Path) -> None:
    """In a process of its own, whose arguments and working folder are the compiler's."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    roots = {str(Path(_spec_of(name)).parents[1]) for name in (PACKAGE, "finmaas_core")}
    os.environ["MYPYPATH"] = os.pathsep.join(sorted(roots))
    extensions = mypycify([*_FLAGS, *map(str, _sources())], opt_level="1", debug_level="0", group_name=_GROUP)
    build = Distribution({"name": _GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib, build.build_temp = str(made / "lib"), str(made / "temp")
    build.ensure_finalized()
    build.run()


def _sources() -> list[Path]:
    root = Path(_spec_of(PACKAGE)).parent
    return [root / f"{name.replace('.', '/')}.py" for name in MODULES]


def _spec_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def _base() -> Path:
    return Path(sysconfig.get_path("platlib")) / "finmaas_compiled"


def _folder() -> Path:
    """Of these sources: what they say, how they are compiled, and for which Python."""
    digest = hashlib.sha256(f"{_SUFFIX} {sys.version} {_FLAGS}".encode())
    for source in (*_sources(), Path(__file__)):
        digest.update(source.read_bytes())
    return _base() / digest.hexdigest()[:16]


def main() -> int:
    """Compiles, unless these sources are; where this machine cannot, says why: that is no failure."""
    if sys.argv[1:2] == ["--build"]:
        _build(Path(sys.argv[2]))
        return 0
    if not _folder().exists():
        print("Compiling the gateway's hot path (half a minute, once for each change of it) …", flush=True)
    try:
        compile_all()
    except OSError as error:
        print(f"It stays interpreted, which costs speed and nothing else: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
