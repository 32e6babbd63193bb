"""When a token or key works: neither revoked nor expired. And what model names a key may hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_network

from finmaas_core.errors import InvalidInput
from finmaas_platform.domain.names import check_name
from finmaas_serving.gateway.router import METHODS

ANY_MODEL = ANY_METHOD = "*"
MAX_LIFETIME_S = 10 * 366 * 24 * 3600


def is_live(revoked_at: datetime | None, expires_at: datetime | None, now: datetime) -> bool:
    """Whether a credential works at this moment."""
    return revoked_at is None and (expires_at is None or expires_at > now)


def choose_expiry(now: datetime, expires_in_s: int | None, expires_at: datetime | None = None) -> datetime | None:
    """When a new credential expires (None: never). InvalidInput for both ways at once, or for a moment that is past."""
    if expires_in_s is not None and expires_at is not None:
        raise InvalidInput("give `expires_in_s` or `expires_at`, not both")
    if expires_in_s is not None:
        return now + timedelta(seconds=expires_in_s)
    if expires_at is None:
        return None
    if expires_at.tzinfo is None:
        raise InvalidInput("`expires_at` needs a time zone, e.g. 2027-01-31T00:00:00Z")
    if expires_at <= now:
        raise InvalidInput(f"`expires_at` {expires_at.isoformat()} is past; give a later moment, or leave it out")
    return expires_at


def check_methods(methods: Sequence[str]) -> list[str]:
    """What a key may ask for, repeats removed: `*` or names of METHODS. InvalidInput else."""
    known = ", ".join(sorted(METHODS))
    if not methods:
        raise InvalidInput(f'`methods` is empty, so the key could call nothing; give some of {known}, or ["*"]')
    for method in methods:
        if method != ANY_METHOD and method not in METHODS:
            raise InvalidInput(f"{method[:100]!r} is no method; methods are {known}")
    return [ANY_METHOD] if ANY_METHOD in methods else list(dict.fromkeys(methods))


def check_networks(networks: Sequence[str]) -> list[str]:
    """Where a key may come from, as CIDR blocks in their usual form; empty: from anywhere. InvalidInput else."""
    found = []
    for network in networks:
        try:
            found.append(str(ip_network(network)))
        except ValueError as error:
            raise InvalidInput(f"{network[:100]!r} is no network ({error}); write e.g. 10.1.0.0/16") from None
    return list(dict.fromkeys(found))


def check_models(models: Sequence[str]) -> list[str]:
    """A key's scope, repeats removed: `*`, or endpoints by short name or `tenant/project/name`. InvalidInput else."""
    if not models:
        raise InvalidInput('`models` is empty, so the key could call nothing; give endpoint names, or ["*"] for all')
    for model in models:
        parts = model.split("/")
        if model != ANY_MODEL and len(parts) not in (1, 3):
            raise InvalidInput(f"{model[:200]!r} is no endpoint; give its name or tenant/project/name")
        for part in parts if model != ANY_MODEL else ():
            check_name(part, "model name")
    return [ANY_MODEL] if ANY_MODEL in models else list(dict.fromkeys(models))
