"""Logging in with the bank's identity provider, for the CLI: device code (RFC 8628), or a browser with PKCE (RFC 8252).

What comes of it is kept in `secrets/login.json` of the home folder, readable by its owner alone, one login an address.
The ID token is what the platform is sent; when it has expired, the refresh token gets the next one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from finmaas_core.errors import FinmaasError, NotAuthenticated, Unavailable
from finmaas_core.home import Home, read_secret, write_secret

SCOPES = "openid profile email offline_access"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
LONGEST_WAIT_S = 600.0
EARLY_S = 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DONE = "<!doctype html><meta charset=utf-8><title>finmaas</title><p>You are logged in; close this window. 登录成功。"


@dataclass(frozen=True)
class Login:
    """Tokens of one login; `expires_at` is that of the ID token, in epoch seconds."""

    issuer: str
    client_id: str
    id_token: str
    refresh_token: str
    expires_at: float


@dataclass(frozen=True)
class DeviceCode:
    """What a user types, and where."""

    user_code: str
    verification_uri: str


def login_by_device(
    issuer: str,
    client_id: str,
    show: Callable[[DeviceCode], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Login:
    """Shows a code, and waits until the user has typed it into a browser anywhere. NotAuthenticated if they refuse."""
    document = _discover(issuer)
    endpoint = document.get("device_authorization_endpoint")
    if not endpoint:
        raise Unavailable(f"{issuer} knows no device codes; run `finmaas login --browser`")
    grant = _post(str(endpoint), {"client_id": client_id, "scope": SCOPES})
    show(DeviceCode(grant["user_code"], grant.get("verification_uri_complete") or grant["verification_uri"]))
    interval = float(grant.get("interval", 5))
    end = time.monotonic() + min(float(grant.get("expires_in", LONGEST_WAIT_S)), LONGEST_WAIT_S)
    body = {"grant_type": DEVICE_GRANT, "device_code": grant["device_code"], "client_id": client_id}
    while time.monotonic() < end:
        sleep(interval)  # the provider has no event to wait on; it says how long to wait
        answer = _post(str(document["token_endpoint"]), body, expected=("authorization_pending", "slow_down"))
        if "id_token" in answer:
            return _to_login(issuer, client_id, answer)
        interval += 5 if answer.get("error") == "slow_down" else 0
    raise NotAuthenticated("nobody has typed the code in time; run `finmaas login` again")


def login_by_browser(issuer: str, client_id: str, open_url: Callable[[str], object]) -> Login:
    """Sends the user's browser to the provider and waits for it to come back to a port of this machine."""
    document = _discover(issuer)
    verifier, state, nonce = (secrets.token_urlsafe(48) for _ in range(3))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    with _Callback() as callback:
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": callback.url,
            "scope": SCOPES,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        open_url(f"{document['authorization_endpoint']}?{urlencode(query)}")
        answer = callback.wait(LONGEST_WAIT_S)
        if answer.get("state") != state:
            raise NotAuthenticated("the browser came back with another login's answer; run `finmaas login` again")
        if "code" not in answer:
            raise NotAuthenticated(f"the provider refused: {answer.get('error_description') or answer.get('error')}")
        body = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": callback.url,
            "client_id": client_id,
            "code_verifier": verifier,
        }
        tokens = _post(str(document["token_endpoint"]), body)
    if _claims(tokens.get("id_token", "")).get("nonce") != nonce:
        raise NotAuthenticated("the provider's token is not of this login; run `finmaas login` again")
    return _to_login(issuer, client_id, tokens)


def refresh(login: Login) -> Login:
    """The next ID token; NotAuthenticated when the login has ended."""
    if not login.refresh_token:
        raise NotAuthenticated("your login has expired; run `finmaas login`")
    body = {"grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id}
    answer = _post(str(_discover(login.issuer)["token_endpoint"]), body)
    return _to_login(login.issuer, login.client_id, {"refresh_token": login.refresh_token, **answer})


def find_token(home: Home, url: str) -> str | None:
    """The ID token of the login at an address, refreshed if need be; None without a login."""
    logins = _read(home)
    if url not in logins:
        return None
    login = logins[url]
    if login.expires_at - EARLY_S <= time.time():
        login = refresh(login)
        store_login(home, url, login)
    return login.id_token


def store_login(home: Home, url: str, login: Login | None) -> bool:
    """Keeps the login at an address, or with None forgets it; whether there was one."""
    logins = _read(home)
    had = logins.pop(url, None) is not None
    if login is not None:
        logins[url] = login
    text = json.dumps({key: asdict(value) for key, value in logins.items()}, indent=1)
    write_secret(home.secrets / "login.json", text)
    return had


def _read(home: Home) -> dict[str, Login]:
    try:
        document = json.loads(read_secret(home.secrets / "login.json"))
        return {url: Login(**values) for url, values in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise NotAuthenticated(
            f"{home.secrets / 'login.json'} cannot be read ({error}); remove it and run `finmaas login`"
        ) from None


def _discover(issuer: str) -> dict[str, Any]:
    from finmaas_platform.oidc import discover

    return discover(issuer)


def _post(url: str, body: Mapping[str, str], expected: tuple[str, ...] = ()) -> dict[str, Any]:
    from finmaas_platform.oidc import check_address

    check_address(url)
    try:
        answer = httpx.post(url, data=dict(body), timeout=30, trust_env=urlsplit(url).hostname not in _LOOPBACK)
        document: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"the identity provider does not answer at {url} ({error})") from error
    if answer.is_success or document.get("error") in expected:
        return document
    reason = document.get("error_description") or document.get("error") or answer.status_code
    raise NotAuthenticated(f"the identity provider refused: {reason}; run `finmaas login` again")


def _to_login(issuer: str, client_id: str, tokens: Mapping[str, Any]) -> Login:
    id_token = tokens.get("id_token")
    if not isinstance(id_token, str):
        raise NotAuthenticated(f"{issuer} gave no ID token; allow the scope `openid` for the client {client_id}")
    expires = float(_claims(id_token).get("exp", 0))
    return Login(issuer, client_id, id_token, str(tokens.get("refresh_token") or ""), expires)


def _claims(token: str) -> dict[str, Any]:
    """What a token says, unverified: it came straight from the provider, and the platform verifies it."""
    try:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


class _Callback:
    """A port of this machine that the browser comes back to, once."""

    def __enter__(self) -> _Callback:
        found: dict[str, str] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path != "/callback":
                    self.send_error(404)
                    return
                found.update({key: values[0] for key, values in parse_qs(parts.query).items()})
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(_DONE.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
                pass

        self._found = found
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/callback"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def wait(self, seconds: float) -> dict[str, str]:
        """What the browser brought."""
        end = time.monotonic() + seconds
        while not self._found:
            left = end - time.monotonic()
            if left <= 0:
                raise NotAuthenticated("the browser did not come back in time; run `finmaas login` again")
            self._server.timeout = left
            self._server.handle_request()
        return self._found


def fetch_settings(url: str) -> tuple[str, str]:
    """The issuer and client id that a platform asks for; NotFound where it has no identity provider."""
    from finmaas_platform.sdk.problems import rebuild_error

    try:
        answer = httpx.get(f"{url}/api/v1/login", timeout=30, trust_env=urlsplit(url).hostname not in _LOOPBACK)
    except httpx.HTTPError as error:
        raise Unavailable(f"nothing answers at {url} ({error}); `finmaas status` shows what runs") from error
    if not answer.is_success:
        failure: FinmaasError = rebuild_error(answer)
        raise failure
    body = answer.json()
    return body["issuer"], body["client_id"]
