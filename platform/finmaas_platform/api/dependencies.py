"""What routes ask for: the session, the caller, the wiring.

    SessionDep     the request's unit of work; commits before the response leaves, so a failed commit is a 5xx
    CallerDep      a principal (access token). The default: job, node and gateway tokens are refused
    AnyCallerDep   whoever holds a valid token; the route or service looks at `caller.kind`
    JobCallerDep / NodeCallerDep / GatewayCallerDep   only that kind
    DepsDep        settings, store, cluster, clock; a streaming route opens its own short `unit_of_work(deps.sessions)`

The caller is found in a short reading transaction of its own, so a route that never touches SessionDep holds no
database lock while it streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from finmaas_core.errors import NotAllowed, NotAuthenticated
from finmaas_core.identity import looks_like_jwt
from finmaas_platform.db.base import begin_reading, read_unit
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, CallerKind
from finmaas_platform.services.authentication import authenticate, authenticate_identity

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_bearer = HTTPBearer(auto_error=False, description="Access token `fma_…`")


def get_deps(request: Request) -> Deps:
    """The wiring that `create_app` was given."""
    deps: Deps = request.app.state.deps
    return deps


DepsDep = Annotated[Deps, Depends(get_deps)]


def get_session(request: Request, deps: DepsDep) -> Iterator[Session]:
    """One transaction a request, begun at its first statement; GET and HEAD only read and wait for no writer."""
    with deps.sessions() as session, session.begin():
        if request.method in SAFE_METHODS:
            begin_reading(session)
        yield session


SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def get_reader(deps: DepsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """The caller of a request that reads, whatever its method; NotAuthenticated without a valid token."""
    if credentials is None:
        raise NotAuthenticated("no access token was sent; send `Authorization: Bearer fma_…`")
    token, now = credentials.credentials, deps.clock.now()
    # The provider may have to be asked for its keys, which no session waits for.
    identity = deps.oidc.verify(token, now) if deps.oidc is not None and looks_like_jwt(token) else None
    with read_unit(deps.sessions) as session:
        if identity is not None:
            return authenticate_identity(session, identity)
        return authenticate(session, deps.secrets, token, now)


def get_caller(
    request: Request, deps: DepsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """The caller of the request; NotAuthenticated without a valid token."""
    caller = get_reader(deps, credentials)
    if caller.is_frozen and request.method not in SAFE_METHODS:
        raise NotAllowed("your tenant is frozen, so nothing of it can be changed; ask a platform-admin")
    return caller


AnyCallerDep = Annotated[Caller, Depends(get_caller)]


def check_kind(caller: Caller, kind: CallerKind) -> Caller:
    """Returns the caller, or raises NotAllowed unless its token is of this kind."""
    if caller.kind is not kind:
        raise NotAllowed(f"this is for a {kind} token; yours is a {caller.kind} token")
    return caller


def _only(kind: CallerKind) -> Callable[[Caller], Caller]:
    def check(caller: AnyCallerDep) -> Caller:
        return check_kind(caller, kind)

    return check


def _get_reading_principal(
    deps: DepsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    return check_kind(get_reader(deps, credentials), CallerKind.PRINCIPAL)


CallerDep = Annotated[Caller, Depends(_only(CallerKind.PRINCIPAL))]
# A principal that reads, though the method is POST: a frozen tenant may.
ReaderDep = Annotated[Caller, Depends(_get_reading_principal)]
JobCallerDep = Annotated[Caller, Depends(_only(CallerKind.JOB))]
NodeCallerDep = Annotated[Caller, Depends(_only(CallerKind.NODE))]
GatewayCallerDep = Annotated[Caller, Depends(_only(CallerKind.GATEWAY))]
