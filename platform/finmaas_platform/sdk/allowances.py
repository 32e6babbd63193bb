"""Allowances and prices: what may be spent, and what tokens cost."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Allowance, Holder, Price
from finmaas_platform.sdk.transport import Transport


class Allowances:
    """`client.allowances`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Allowance]:
        """Those in the caller's sight, or of one project and its keys."""
        return self._http.pages(Allowance, "/allowances", project=project)

    def set(
        self,
        scope: str,
        subject: str,
        unit: str,
        window: str,
        limit: str | int,
        *,
        currency: str | None = None,
        model: str = "",
    ) -> Allowance:
        """Sets it, or changes its limit. Money is written as text, `"12.50"`."""
        body = {
            "scope": scope, "subject": subject, "unit": unit, "window": window, "limit": str(limit),
            "currency": currency, "model": model,
        }  # fmt: skip
        return Allowance.model_validate(self._http.write("PUT", "/allowances", body))

    def get(self, allowance_id: str) -> Allowance:
        """One with its present window; NotFound."""
        return Allowance.model_validate(self._http.get(f"/allowances/{allowance_id}"))

    def delete(self, allowance_id: str) -> None:
        """Removes it, with what was counted; NotFound."""
        self._http.write("DELETE", f"/allowances/{allowance_id}")

    def gateways(self) -> list[Holder]:  # type: ignore[valid-type]  # `list` is the method above
        """Gateways, and how many slices each holds."""
        return [Holder.model_validate(item) for item in self._http.get("/allowances/gateways")]

    def write_off(self, gateway: str) -> int:
        """Frees what a gateway holds that is gone for good; Conflict while it is heard of."""
        answer = self._http.write("POST", "/allowances/write-offs", {"gateway": gateway})
        return int(answer["slices"])


class Prices:
    """`client.prices`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, model: str | None = None) -> Iterator[Price]:
        """The price book, as far as the caller sees it."""
        return self._http.pages(Price, "/prices", model=model)

    def set(
        self,
        model: str,
        currency: str,
        valid_from: str,
        input_price: str,
        output_price: str,
        *,
        cached_input: str | None = None,
        reasoning: str | None = None,
    ) -> Price:
        """Sets what a million tokens cost from a day on."""
        body = {
            "model": model, "currency": currency, "valid_from": valid_from, "input": input_price,
            "output": output_price, "cached_input": cached_input, "reasoning": reasoning,
        }  # fmt: skip
        return Price.model_validate(self._http.write("PUT", "/prices", body))
