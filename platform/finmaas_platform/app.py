"""The REST API as one FastAPI application; wiring happens here, once."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from finmaas_core.settings import Settings
from finmaas_platform.api import (
    access_tokens,
    allowances,
    api_keys,
    archive,
    audit_events,
    batches,
    blobs,
    collections,
    dataset_rows,
    datasets,
    drafts,
    endpoints,
    gateway,
    gateways,
    grants,
    health,
    hub,
    hub_lfs,
    hub_writes,
    job_protocol,
    jobs,
    ledger,
    lineage,
    login,
    mlflow_artifacts,
    model_lifecycle,
    models,
    openai_files,
    policies,
    principals,
    projects,
    providers,
    signatures,
    tenant_sharing,
    tenants,
    traffic,
    usage,
    version_imports,
    xet,
)
from finmaas_platform.api.middleware import RequestContext
from finmaas_platform.api.problems import install_problem_handlers
from finmaas_platform.deps import Deps
from finmaas_platform.openapi import describe_api

PREFIX = "/api/v1"

# One line a noun.
ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    login.router,
    tenants.router,
    tenant_sharing.router,
    projects.router,
    principals.router,
    access_tokens.router,
    api_keys.router,
    grants.router,
    audit_events.router,
    archive.router,
    usage.router,
    datasets.router,
    dataset_rows.router,
    dataset_rows.trace_router,
    dataset_rows.requests_router,
    models.router,
    models.node_router,
    drafts.router,
    version_imports.router,
    model_lifecycle.router,
    model_lifecycle.rules_router,
    lineage.router,
    lineage.model_router,
    signatures.router,
    signatures.key_router,
    blobs.router,
    collections.router,
    jobs.router,
    job_protocol.router,
    endpoints.router,
    traffic.router,
    providers.router,
    policies.router,
    allowances.router,
    allowances.prices_router,
    ledger.router,
    policies.provenance_router,
    gateway.router,
    openai_files.router,
    batches.router,
    gateways.router,
    gateways.metrics_router,
)


def create_app(settings: Settings, deps: Deps) -> FastAPI:
    """The application over its wiring; it neither opens a port nor touches the database."""
    return wire_app(make_app(), settings, deps)


def wire_app(app: FastAPI, settings: Settings, deps: Deps) -> FastAPI:
    """Gives an application its wiring, in place of what it had."""
    app.state.deps = deps
    app.state.settings = settings
    return app


def describe_app() -> dict[str, Any]:
    """The OpenAPI document of the application; needs no wiring."""
    return make_app().openapi()


def make_app() -> FastAPI:
    """The application without its wiring."""
    app = FastAPI(
        title="finmaas",
        summary="Model-as-a-Service: datasets, fine-tuning, evaluation, models, endpoints.",
        version="1",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its page would load scripts from the internet
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    install_problem_handlers(app)
    app.add_middleware(RequestContext)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    # The clients of these fix the paths.
    for router in (xet.router, hub_writes.router, hub_lfs.router, hub.router, mlflow_artifacts.router):
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or describe_api(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
