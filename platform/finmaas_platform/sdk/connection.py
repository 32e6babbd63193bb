"""Finds the control plane and a credential for it: arguments, then the environment, then the home folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from finmaas_core.errors import InvalidInput, NotAuthenticated, Unavailable
from finmaas_core.home import Home, find_home, read_secret

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Address:
    """Where the control plane and the gateway listen, and the token to use."""

    url: str
    gateway_url: str
    token: str


def find_address(
    url: str | None = None, token: str | None = None, home: str | os.PathLike[str] | None = None
) -> Address:
    """The address to use. Unavailable when nothing was ever started here, NotAuthenticated without a token.

    The home folder's admin token goes only to the home's own address or to this machine, never to another host.
    """
    found = find_home(home)
    url, gateway_url = find_urls(url, home)
    return Address(url, gateway_url, _find_token(token, found, url))


def find_urls(url: str | None = None, home: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Where the control plane and the gateway listen; Unavailable when nothing was ever started here."""
    found = find_home(home)
    url = url or os.environ.get("FINMAAS_URL") or ""
    gateway_url = os.environ.get("FINMAAS_GATEWAY_URL") or ""
    if url and not url.startswith(("http://", "https://")):
        raise InvalidInput(f"{url!r} is not an address of a control plane; give one like http://127.0.0.1:8101")
    if not url or not gateway_url:
        own_url, own_gateway_url = _addresses_of(found)
        if not url:
            url = own_url or _nothing_here(found)
        # The home tells of the gateway only where it tells of the control plane as well.
        gateway_url = gateway_url or (own_gateway_url if own_gateway_url and _is_near(url, own_url) else "")
    url = url.rstrip("/").removesuffix("/api/v1")
    return url, gateway_url.rstrip("/").removesuffix("/v1")


def _addresses_of(home: Home) -> tuple[str, str]:
    """Control plane and gateway of an embedded installation; empty when there is none."""
    if not home.config.exists() and not home.admin_token.exists():
        return "", ""
    from finmaas_core.settings import load_settings

    settings = load_settings(home.root)
    return settings.api_url, settings.gateway_url


def _nothing_here(home: Home) -> str:
    raise Unavailable(
        f"no finmaas installation in {home.root}; start one with `finmaas up`, "
        "or name a running one with FINMAAS_URL and FINMAAS_TOKEN"
    )


def _is_near(url: str, own_url: str) -> bool:
    return url.rstrip("/") == own_url.rstrip("/") or urlsplit(url).hostname in LOOPBACK


def _find_token(token: str | None, home: Home, url: str) -> str:
    token = token or os.environ.get("FINMAAS_TOKEN")
    if token:
        return token.strip()
    if (home.secrets / "login.json").exists():
        from finmaas_platform.sdk.login import find_token

        if (id_token := find_token(home, url)) is not None:
            return id_token
    own_url, _ = _addresses_of(home)
    if not _is_near(url, own_url):
        raise NotAuthenticated(
            f"no access token for {url}; run `finmaas login`, or set FINMAAS_TOKEN "
            f"(the token in {home.root} is for this machine only)"
        )
    return _read_token(home.admin_token)


def _read_token(path: Path) -> str:
    try:
        return read_secret(path)
    except FileNotFoundError:
        raise NotAuthenticated(
            f"no access token: FINMAAS_TOKEN is not set and {path} is not there; run `finmaas up`, or set the variable"
        ) from None
    except PermissionError:
        raise NotAuthenticated(
            f"{path} belongs to another user; set FINMAAS_TOKEN to a token of your own (`finmaas token create`)"
        ) from None
