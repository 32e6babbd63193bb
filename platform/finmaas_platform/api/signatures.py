"""Routes of signatures: a version's own, the key that signs, and a look at every byte of a version."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.model_lifecycle import VERSION, find_version
from finmaas_platform.db.base import read_unit
from finmaas_platform.services.signatures import (
    check_version_bytes,
    find_bundle,
    find_trust_root,
    get_bundle,
    open_signing_key,
)
from finmaas_registry.signing import key_id_of

router = APIRouter(prefix="/models/{tenant}/{project}/{name}", tags=["models"])
key_router = APIRouter(prefix="/signing-key", tags=["models"])
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


class VerificationView(BaseModel):
    """`passed`: row, bytes and signature agree. `signature` is valid, invalid or missing."""

    version: str
    passed: bool
    digest: str
    files: int
    signature: str = Field(examples=["valid"])
    key_id: str | None
    trust_root: str = Field(description="Where the trusted keys come from: `configured`, or the installation's `own`.")
    faults: list[str]


@router.get(f"{VERSION}/signature", response_class=Response, summary="The signature of a version")
def get_signature(
    tenant: str, project: str, name: str, selector: str, caller: CallerDep, session: SessionDep
) -> Response:
    """A Sigstore bundle, which the `model_signing` command verifies too; 404 for a version that was not approved."""
    bundle = get_bundle(session, find_version(session, caller, tenant, project, name, selector))
    return Response(bundle, media_type=BUNDLE_TYPE)


@router.get(f"{VERSION}/verification", summary="Verify a version")
def verify_version(
    tenant: str, project: str, name: str, selector: str, caller: CallerDep, deps: DepsDep
) -> VerificationView:
    """Reads every byte of it in the store anew: that takes a second for each GB or so."""
    with read_unit(deps.sessions) as session:
        row = find_version(session, caller, tenant, project, name, selector)
        bundle = find_bundle(session, row.id)
        ref, digest, files = row.ref, row.digest, row.files
    own = deps.settings.trust_root is None
    check = check_version_bytes(deps.store, ref, digest, files, bundle, find_trust_root(deps.settings), own)
    missing = bundle is None and deps.settings.requires_signature
    return VerificationView(
        version=ref,
        passed=not check.faults and not missing,
        digest=digest,
        files=check.files,
        signature="missing" if bundle is None else "invalid" if check.key_id is None else "valid",
        key_id=check.key_id,
        trust_root="own" if own else "configured",
        faults=[*check.faults, *([f"{ref} bears no signature; approval makes one"] if missing else [])],
    )


@key_router.get("", response_class=PlainTextResponse, summary="The public key that signs")
def get_signing_key(caller: CallerDep, deps: DepsDep) -> PlainTextResponse:
    """As PEM, for a trust root. Compare its id with that on another way before you trust it."""
    pem = open_signing_key(deps.settings).public_key()
    return PlainTextResponse(pem, media_type="application/x-pem-file", headers={"Finmaas-Key-Id": key_id_of(pem)})
