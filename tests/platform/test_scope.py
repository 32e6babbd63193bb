"""Tenant scope: what `scoped` lets through, and the check that no query goes round it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

import finmaas_platform
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.base import Base
from finmaas_platform.db.schema import metadata
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.domain.principals import Caller, CallerKind, Role

PACKAGE = Path(finmaas_platform.__file__).parent
# Reconcilers act for the platform, not for a caller; row modules and migrations hold no caller's query.
EXEMPT = ("reconcile/", "db/", "cli/", "sdk/", "demo/", "embedded/")
# Services whose look-up is itself the decision of who may see what.
WHITELIST = {
    "services/authentication.py": "makes the caller; there is none to scope by yet",
    "services/job_tokens.py": "looks up by the hash of a token, or by an attempt that was checked",
    "services/job_protocol.py": "looks up by the job and attempt of the caller's token, and fences them",
    "services/blobs.py": "its own table says which tenant or job may see a digest",
}
MARK = "# unscoped:"


def principal(role: Role, tenant_id: str | None) -> Caller:
    return Caller(CallerKind.PRINCIPAL, "pri_1", "someone", role, tenant_id)


class TestScoped:
    @pytest.mark.parametrize(
        ("caller", "where"),
        [
            (principal(Role.PLATFORM_ADMIN, None), None),
            (principal(Role.AUDITOR, None), None),
            (principal(Role.TENANT_ADMIN, "ten_1"), "api_keys.tenant_id = 'ten_1'"),
            (principal(Role.AUDITOR, "ten_1"), "api_keys.tenant_id = 'ten_1'"),
            (Caller(CallerKind.JOB, "job_1", "a job", tenant_id="ten_1"), "api_keys.tenant_id = 'ten_1'"),
            (Caller(CallerKind.NODE, "node", "a node"), "false"),
            (Caller(CallerKind.GATEWAY, "gw", "a gateway"), "false"),
            (principal(Role.ML_ENGINEER, None), "false"),
        ],
    )
    def test_narrows_to_what_the_caller_may_see(self, caller: Caller, where: str | None) -> None:
        clause = scoped(select(ApiKeyRow), caller).whereclause
        found = None if clause is None else str(clause.compile(compile_kwargs={"literal_binds": True}))
        assert found == where

    def test_a_tenant_owns_itself(self) -> None:
        clause = scoped(select(TenantRow), principal(Role.TENANT_ADMIN, "ten_1")).whereclause
        assert str(clause) == "tenants.id = :id_1"


class TestEveryQuery:
    """`select`, `get`, `update` and `delete` of a tenant's rows go through `scoped`, or say on their line why not."""

    def test_is_scoped_or_says_why_not(self) -> None:
        found = [problem for path in sorted(PACKAGE.rglob("*.py")) for problem in find_unscoped(path)]
        assert not found, "\n".join(["add scoped(...), or `# unscoped: <reason>` on the line:", *found])

    def test_the_whitelist_names_files_that_exist(self) -> None:
        assert all((PACKAGE / path).exists() for path in WHITELIST)

    def test_finds_what_it_should(self, tmp_path: Path) -> None:
        sample = tmp_path / "sample.py"
        sample.write_text(
            "a = scoped(select(ApiKeyRow), caller)\n"
            "b = select(ApiKeyRow.id).where(x)\n"
            "c = session.get(ApiKeyRow, key)\n"
            "d = select(ApiKeyRow)  # unscoped: because\n"
            "e = select(SnapshotCounterRow)\n"
            "f = update(ApiKeyRow).values(x=1)\n"
        )
        assert sorted(line.split(":")[1] for line in find_unscoped(sample)) == ["2", "3", "6"]


def owned_rows() -> set[str]:
    """Class names of rows that belong to a tenant."""
    assert metadata.tables
    classes = [mapper.class_ for mapper in Base.registry.mappers]
    return {cls.__name__ for cls in classes if hasattr(cls, "tenant_id") or hasattr(cls, "__tenant_key__")}


def find_unscoped(path: Path) -> Iterator[str]:
    where = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
    if where.startswith(EXEMPT) or where in WHITELIST:
        return
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    inside = {
        id(node)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and name_of(call.func) == "scoped"
        for node in ast.walk(call)
    }
    rows = owned_rows()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in inside or not node.args:
            continue
        if name_of(node.func) not in ("select", "get", "get_one", "update", "delete", "query"):
            continue
        if root_of(node.args[0]) in rows and not any(MARK in line for line in lines[node.lineno - 1 : node.end_lineno]):
            yield f"{where}:{node.lineno}: {lines[node.lineno - 1].strip()}"


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def root_of(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    if isinstance(node, ast.Call) and node.args:
        return root_of(node.args[0])
    return node.id if isinstance(node, ast.Name) else ""
