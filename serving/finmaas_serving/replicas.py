"""Reads the addresses of replicas out of Ray Serve's REST document. Pure: no network, no ray.

Serve tells them in `target_groups`, one per application and protocol: with direct ingress on, the targets are the
replicas' own ports; an application without a running replica has the proxies there instead, which we leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Address = tuple[str, int]

_REPLICA_ACTOR = "SERVE_REPLICA::"  # ray.serve._private.common.ReplicaID.full_id_str


def parse_replicas(document: Mapping[str, Any]) -> dict[str, list[Address]]:
    """Addresses that take requests, by application, from `GET /api/serve/applications/`.

    Every application of the document has an entry; the list is sorted and empty while no replica is ready.
    An empty document (Serve does not run yet) gives an empty dict.
    """
    found: dict[str, list[Address]] = {name: [] for name in document.get("applications") or {}}
    for group in document.get("target_groups") or []:
        name = group.get("app_name")
        if name in found and group.get("protocol") == "HTTP":
            found[name].extend(_addresses(group))
    return {name: sorted(set(addresses)) for name, addresses in found.items()}


def _addresses(group: Mapping[str, Any]) -> Iterator[Address]:
    for target in group.get("targets") or []:
        if str(target.get("name", "")).startswith(_REPLICA_ACTOR):
            yield str(target["ip"]), int(target["port"])
