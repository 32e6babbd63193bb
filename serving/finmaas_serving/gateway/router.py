"""Who may call what. Pure: sees a snapshot, a header and the time, nothing else."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from finmaas_core.errors import InvalidInput, NotAllowed, NotAuthenticated, NotFound, Unavailable
from finmaas_serving.gateway.batch_pass import PREFIX, find_batch_key
from finmaas_serving.gateway.snapshot import Key, Route, Snapshot

NOT_READY_RETRY_S = 5
JWT_DOTS = 2
METHOD_OF = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}
METHODS = frozenset((*METHOD_OF.values(), "models", "files", "batches"))
EVERY_METHOD = ("*",)
_BEARER = b"bearer "


def hash_key(pepper: bytes, key: bytes) -> str:
    """The form in which a key is stored: hex HMAC-SHA256(pepper, key)."""
    return hmac.digest(pepper, key, "sha256").hex()


def authorise(
    snapshot: Snapshot,
    pepper: bytes,
    header: bytes | None,
    now: float,
    find_person: Callable[[bytes], Key] | None = None,
) -> Key:
    """The key that an Authorization header carries; NotAuthenticated when there is none that holds at `now`.

    `find_person` is asked for tokens of an identity provider.
    """
    if header is None:
        raise NotAuthenticated("no API key given; send `Authorization: Bearer fmk_…`")
    if header[:7].lower() != _BEARER:
        raise NotAuthenticated("the Authorization header is not `Bearer` with an API key")
    credential = header[7:].strip()
    key = snapshot.keys.get(hash_key(pepper, credential))
    if key is None and credential.startswith(PREFIX):
        key = find_batch_key(snapshot.keys, pepper, credential, now)
    if key is None and find_person is not None and credential.startswith(b"ey") and credential.count(b".") == JWT_DOTS:
        return find_person(credential)
    if key is None:
        raise NotAuthenticated("the API key is wrong or was revoked; ask the project's owner for a new one")
    if key.expires_at is not None and key.expires_at <= now:
        raise NotAuthenticated("the API key has expired; ask the project's owner for a new one")
    return key


def check_scope(key: Key, path: str, peer: str) -> None:
    """NotAllowed when a key does not reach as far as this path, or not from this address."""
    if key.methods != EVERY_METHOD and _method_of(path) not in key.methods:
        raise NotAllowed(f"this key may not ask for {path}; it may for {', '.join(key.methods)}")
    if key.networks and not _is_within(peer, key.networks):
        raise NotAllowed(f"this key may not be used from {peer}; ask the project's owner for one that may")


def _method_of(path: str) -> str:
    found = METHOD_OF.get(path)
    return found or next((name for name in ("files", "batches") if path.startswith(f"/v1/{name}")), "models")


def _is_within(peer: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False  # a Unix socket has no address, so nothing vouches for it
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in _parse(networks))


@lru_cache(maxsize=4096)
def _parse(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(network) for network in networks)


def resolve(snapshot: Snapshot, key: Key, model: str) -> Route:
    """The endpoint that a key calls `model`; NotFound for one that does not exist or that the key may not see."""
    route = snapshot.visible.get(key.project_id, {}).get(model)
    if route is None or not in_scope(key, route):
        raise NotFound(
            f"the model `{model[:200]}` does not exist or this key may not use it; see /v1/models", param="model"
        )
    return route


def in_scope(key: Key, route: Route) -> bool:
    """Whether a key may call an endpoint of its project's sight."""
    return (
        "*" in key.models
        or route.name in key.models
        or (route.project_id == key.project_id and route.short_name in key.models)
    )


def visible_models(snapshot: Snapshot, key: Key) -> dict[str, Route]:
    """What a key may call, each endpoint once: by short name in its own project, by full name elsewhere."""
    return {
        name: route
        for name, route in sorted(snapshot.visible.get(key.project_id, {}).items())
        if in_scope(key, route) and (route.project_id != key.project_id or name == route.short_name)
    }


def not_ready(route: Route) -> Unavailable:
    """Why an endpoint cannot answer now."""
    return Unavailable(
        f"the endpoint `{route.name}` has no replica that takes requests (state {route.state}); try again later",
        retry_after_s=NOT_READY_RETRY_S,
    )


def read_timeout(value: bytes, longest_s: float) -> float:
    """The seconds that `x-request-timeout` gives a request, at most `longest_s`; InvalidInput for no such number."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:  # nan too
        raise InvalidInput("`x-request-timeout` must be a number of seconds above 0, e.g. 30 or 2.5")
    return min(seconds, longest_s)
