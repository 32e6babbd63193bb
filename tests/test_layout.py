"""Guards of the layout: five packages under named source roots, and nothing that shadows the standard library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = {
    "platform": {"finmaas_core", "finmaas_platform"},
    "registry": {"finmaas_registry"},
    "training": {"finmaas_training"},
    "serving": {"finmaas_serving"},
}
WRAPPED_LIBRARIES = {"ray", "vllm", "torch", "deepspeed", "minio", "fastapi", "sqlalchemy", "alembic", "kubernetes"}


class TestLayout:
    def test_the_standard_library_platform_wins(self) -> None:
        assert Path(platform.__file__).parent == Path(sysconfig.get_paths()["stdlib"])

    @pytest.mark.parametrize("root", [*SOURCE_ROOTS, "tests", "tests/platform"])
    def test_no_source_root_is_itself_a_package(self, root: str) -> None:
        assert not (ROOT / root / "__init__.py").exists()

    @pytest.mark.parametrize(("root", "packages"), SOURCE_ROOTS.items())
    def test_each_source_root_holds_just_its_packages(self, root: str, packages: set[str]) -> None:
        found = {folder.name for folder in (ROOT / root).iterdir() if any(folder.glob("*.py"))}
        assert found == packages

    def test_every_module_sits_in_a_regular_package(self) -> None:
        for root, packages in SOURCE_ROOTS.items():
            for package in packages:
                for module in (ROOT / root / package).rglob("*.py"):
                    assert (module.parent / "__init__.py").exists(), f"{module} is outside any package"

    def test_no_module_is_called_like_a_library_it_wraps(self) -> None:
        for root in SOURCE_ROOTS:
            names = {module.stem for module in (ROOT / root).rglob("*.py")}
            assert not names & WRAPPED_LIBRARIES

    def test_test_files_have_unique_names(self) -> None:
        names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
        assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


class TestLightStart:
    @pytest.mark.parametrize(
        "module",
        [
            "finmaas_platform.control_plane",
            "finmaas_platform.app",
            "finmaas_platform.cli.main",
            "finmaas_platform.embedded.supervisor",
            "finmaas_serving.gateway.__main__",
            "finmaas_registry.store",
        ],
    )
    def test_imports_no_engine(self, module: str) -> None:
        code = (
            f"import sys, {module}; "
            "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'sklearn'} & set(sys.modules); "
            "assert not heavy, heavy"
        )
        env = {**os.environ, "FINMAAS_HOME": "/nonexistent"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
