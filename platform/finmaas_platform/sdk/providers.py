"""Outside providers, and the projects that are approved for them."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Provider
from finmaas_platform.sdk.transport import Transport


class Providers:
    """`client.providers`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Iterator[Provider]:
        """All providers, with the approvals in the caller's sight."""
        return self._http.pages(Provider, "/providers")

    def get(self, name: str) -> Provider:
        """One provider; NotFound."""
        return Provider.model_validate(self._http.get(f"/providers/{name}"))

    def create(self, name: str, base_url: str, secret: str) -> Provider:
        """Makes a provider known; its secret is sealed and never shown again. AlreadyExists."""
        body = {"name": name, "base_url": base_url, "secret": secret}
        return Provider.model_validate(self._http.write("POST", "/providers", body))

    def delete(self, name: str) -> None:
        """Forgets a provider, its secret and its approvals."""
        self._http.write("DELETE", f"/providers/{name}")

    def approve(self, name: str, project: str) -> Provider:
        """Lets a project's requests go there, masked."""
        return Provider.model_validate(self._http.write("POST", f"/providers/{name}/approvals", {"project": project}))

    def withdraw(self, name: str, project: str) -> None:
        """Takes an approval back."""
        self._http.write("DELETE", f"/providers/{name}/approvals/{project}")
