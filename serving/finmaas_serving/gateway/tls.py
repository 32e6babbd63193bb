"""The gateway's certificate: loaded at the start, and again when its files change, so that renewal needs no restart."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from finmaas_core.errors import EnvironmentFault
from finmaas_core.telemetry import get_logger

LOOK_EVERY_S = 30.0
log = get_logger()


class Certificate:
    """A server's side of TLS, 1.2 and newer. Connections keep the certificate they began with."""

    def __init__(self, cert: Path, key: Path) -> None:
        """EnvironmentFault when the files cannot be used together."""
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._changed = self._stamp()
        self._load(self.context)

    def refresh(self) -> bool:
        """Takes up changed files; whether it did. Files that do not fit together leave the old certificate in use."""
        try:
            stamp = self._stamp()
            if stamp == self._changed:
                return False
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # half a renewal must not reach the context in use
            self._load(self.context)
        except EnvironmentFault as error:
            log.warning("tls.kept", error=error.message)
            return False
        self._changed = stamp
        log.info("tls.renewed", cert=str(self._cert))
        return True

    async def keep_fresh(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.refresh()

    def _stamp(self) -> tuple[int, int]:
        try:
            return self._cert.stat().st_mtime_ns, self._key.stat().st_mtime_ns
        except OSError as error:
            raise EnvironmentFault(f"the gateway's certificate cannot be read: {error}") from error

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            raise EnvironmentFault(
                f"{self._cert} and {self._key} cannot be used as certificate and key ({error}); both must be PEM, the "
                "key without a passphrase, and belong together"
            ) from error


def open_certificate(cert: Path | None, key: Path | None) -> Certificate | None:
    """None where TLS is off; EnvironmentFault for one file without the other."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise EnvironmentFault("set FINMAAS_GATEWAY_TLS_CERT and FINMAAS_GATEWAY_TLS_KEY together, or neither")
    return Certificate(cert, key)
