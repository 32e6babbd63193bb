"""Reading replica addresses out of Serve's REST document."""

from __future__ import annotations

from typing import Any

from finmaas_serving.replicas import parse_replicas


def target(port: int, name: str = "SERVE_REPLICA::ep_1#engine#abc", ip: str = "127.0.0.1") -> dict[str, Any]:
    return {"ip": ip, "port": port, "instance_id": "", "name": name}


def group(app: str, *targets: dict[str, Any], protocol: str = "HTTP") -> dict[str, Any]:
    return {"targets": list(targets), "route_prefix": f"/{app}", "protocol": protocol, "app_name": app}


class TestParseReplicas:
    def test_each_application_has_its_own_replicas(self) -> None:
        document = {
            "applications": {"ep_1": {}, "ep_2": {}},
            "target_groups": [group("ep_1", target(8121), target(8120)), group("ep_2", target(8122, ip="10.0.0.7"))],
        }
        assert parse_replicas(document) == {
            "ep_1": [("127.0.0.1", 8120), ("127.0.0.1", 8121)],
            "ep_2": [("10.0.0.7", 8122)],
        }

    def test_an_application_that_is_starting_has_none(self) -> None:
        proxy = target(8104, name="SERVE_PROXY_ACTOR-1ba2")
        document = {"applications": {"ep_1": {}}, "target_groups": [group("ep_1", proxy)]}
        assert parse_replicas(document) == {"ep_1": []}

    def test_the_proxies_group_belongs_to_no_application(self) -> None:
        document = {"applications": {"ep_1": {}}, "target_groups": [group("", target(8104))]}
        assert parse_replicas(document) == {"ep_1": []}

    def test_other_protocols_are_left_out(self) -> None:
        document = {"applications": {"ep_1": {}}, "target_groups": [group("ep_1", target(9000), protocol="gRPC")]}
        assert parse_replicas(document) == {"ep_1": []}

    def test_a_cluster_without_serve_has_no_applications(self) -> None:
        assert parse_replicas({"controller_info": {}, "proxies": {}, "applications": {}}) == {}
