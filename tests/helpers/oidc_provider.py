"""A small OpenID Connect provider over HTTP, with real RSA and EC keys: discovery, JWKS, tokens, device codes, PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT = "finmaas"


class OidcProvider:
    """`with OidcProvider() as provider:`; `provider.subject` is who logs in, `provider.away` makes it answer 503,
    `provider.hang()` makes it take questions and answer none until `provider.release()`."""

    def __init__(self) -> None:
        self.subject = "sub-1"
        self.away = False
        self.pending = 1  # how often a device code is not typed yet
        self.refused = ""
        self.lifetime_s = 300
        self.keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
            "k1": rsa.generate_private_key(public_exponent=65537, key_size=2048)
        }
        self.hanging = threading.Event()  # somebody waits
        self._free = threading.Event()
        self._free.set()
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}

    def __enter__(self) -> OidcProvider:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(urlsplit(self.path).path)
                provider.wait_while_hanging()
                self._answer(*provider.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {key: values[0] for key, values in parse_qs(body).items()}
                provider.asked.append(self.path)
                self._answer(*provider.post(self.path, form))

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                if location := document.get("location"):
                    self.send_response(302)
                    self.send_header("Location", location)
                    self.end_headers()
                    return
                content = json.dumps(document).encode()
                self.send_response(503 if provider.away else status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def hang(self) -> None:
        self.hanging.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def wait_while_hanging(self) -> None:
        if not self._free.is_set():
            self.hanging.set()
            self._free.wait()

    def token(self, kid: str = "k1", key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        """An ID token; claims that are None are left out."""
        now = int(time.time())
        default = {"iss": self.issuer, "aud": CLIENT, "sub": self.subject, "iat": now, "exp": now + self.lifetime_s}
        body = {name: value for name, value in {**default, **claims}.items() if value is not None}
        return jwt.encode(body, key or self.keys[kid], algorithm=algorithm, headers={"kid": kid})

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            endpoints = ("authorization_endpoint", "token_endpoint", "device_authorization_endpoint", "jwks_uri")
            return 200, {"issuer": self.issuer, **{name: f"{self.issuer}/{name}" for name in endpoints}}
        if parts.path == "/jwks_uri":
            return 200, {"keys": [self._jwk(kid) for kid in self.keys]}
        if parts.path == "/authorization_endpoint":
            if self.refused:
                return 302, {
                    "location": f"{query['redirect_uri']}?{urlencode({'error': self.refused, **_state(query)})}"
                }
            self._codes["code"] = query
            return 302, {"location": f"{query['redirect_uri']}?{urlencode({'code': 'code', **_state(query)})}"}
        return 404, {}

    def post(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if path == "/device_authorization_endpoint":
            return 200, {
                "device_code": "dev",
                "user_code": "ABCD",
                "verification_uri": f"{self.issuer}/d",
                "interval": 0,
            }
        grant = form["grant_type"]
        if grant.endswith("device_code"):
            return self._device()
        if grant == "refresh_token":
            return (200, self._tokens()) if form["refresh_token"] == "refresh" else (400, {"error": "invalid_grant"})
        query = self._codes.pop(form["code"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if challenge.decode() != query["code_challenge"] or form["redirect_uri"] != query["redirect_uri"]:
            return 400, {"error": "invalid_grant", "error_description": "the verifier is another"}
        return 200, self._tokens(nonce=query["nonce"])

    def _device(self) -> tuple[int, dict[str, Any]]:
        if self.refused:
            return 400, {"error": self.refused}
        if self.pending:
            self.pending -= 1
            return 400, {"error": "authorization_pending"}
        return 200, self._tokens()

    def _tokens(self, **claims: Any) -> dict[str, Any]:
        return {"id_token": self.token(**claims), "access_token": "opaque", "refresh_token": "refresh"}

    def _jwk(self, kid: str) -> dict[str, Any]:
        public = self.keys[kid].public_key()
        if isinstance(public, rsa.RSAPublicKey):
            document, algorithm = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public)), "RS256"
        else:
            document, algorithm = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(public)), "ES256"
        return {**document, "kid": kid, "use": "sig", "alg": algorithm}


def _state(query: dict[str, str]) -> dict[str, str]:
    return {"state": query["state"]}
