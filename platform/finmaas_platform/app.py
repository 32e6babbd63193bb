"""The REST API as one FastAPI application; wiring happens here, once."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from finmaas_core.settings import Settings
from finmaas_platform.api import health
from finmaas_platform.api.middleware import RequestContext
from finmaas_platform.api.problems import Problem, install_problem_handlers
from finmaas_platform.deps import Deps

PREFIX = "/api/v1"

# One line a noun; every room of the API adds its own.
ROUTERS: tuple[APIRouter, ...] = (
    health.router,
)  # fmt: skip


def create_app(settings: Settings, deps: Deps) -> FastAPI:
    """The application over its wiring; neither opens a port nor touches the database."""
    app = FastAPI(
        title="finmaas",
        summary="Model-as-a-Service: datasets, fine-tuning, evaluation, models, endpoints.",
        version="1",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.deps = deps
    app.state.settings = settings
    install_problem_handlers(app)
    app.add_middleware(RequestContext)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX, responses={"default": {"model": Problem, "description": "Problem"}})
    return app
