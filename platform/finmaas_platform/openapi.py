"""The description of the REST API, and the file in the documentation that holds it.

python -m finmaas_platform.openapi            # writes docs/reference/openapi.json
python -m finmaas_platform.openapi FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from finmaas_platform.api.problems import MEDIA_TYPE, Problem

DESCRIPTION = """\
Every request carries `Authorization: Bearer <token>`. Errors are `application/problem+json` with a stable `code`.
Lists are paged: send `next_cursor` back as `cursor`. Writes take an `Idempotency-Key`, and updates take `If-Match`
with the `ETag` that you were given. A thing of another tenant is *not found*.
"""
_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}


def describe_api(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: every operation tells of problem documents instead of FastAPI's own validation error."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=DESCRIPTION, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": _PROBLEM_REF}}}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
    return document


def write_document(target: Path) -> None:
    """Writes the document; the same code always writes the same bytes."""
    from finmaas_platform.app import describe_app

    text = json.dumps(describe_app(), indent=2, sort_keys=True, ensure_ascii=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_document(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference/openapi.json"))
