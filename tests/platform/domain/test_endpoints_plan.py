"""The plan of all endpoints of a cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finmaas_platform.cluster.port import ApplicationState, ObservedApplication
from finmaas_platform.domain.endpoints import (
    Endpoint,
    EndpointPlan,
    EndpointState,
    LastPut,
    digest_of,
    make_application,
    plan_endpoint,
    plan_serve,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
S = EndpointState
ONE = Endpoint("ep_1", "t/p/one", "mdv_1", S.STARTING, "", 2, 0, {"max_model_len": 512})
TWO = Endpoint("ep_2", "t/p/two", "mdv_2", S.PENDING)


def observed(
    endpoint: Endpoint, state: ApplicationState, message: str = "", replicas: int = 0
) -> dict[str, ObservedApplication]:
    addresses = tuple(f"127.0.0.1:{30000 + n}" for n in range(replicas))
    args = make_application(endpoint).args
    return {endpoint.id: ObservedApplication(endpoint.id, state, message, addresses, args)}


class TestPlanServe:
    def test_a_new_endpoint_is_put_together_with_what_runs(self) -> None:
        plan = plan_serve([TWO, ONE], observed(ONE, ApplicationState.RUNNING, replicas=2), None, NOW)
        assert plan.document == (make_application(ONE), make_application(TWO))
        assert plan.endpoints == (
            EndpointPlan("ep_2", S.STARTING, "handed to the cluster", 0),
            EndpointPlan("ep_1", S.READY, "2 of 2 replicas answer", 2),
        )

    def test_nothing_is_put_when_nothing_differs(self) -> None:
        assert plan_serve([ONE], observed(ONE, ApplicationState.RUNNING, replicas=2), None, NOW).document is None
        assert plan_serve([], {}, None, NOW).document is None

    def test_a_stopped_endpoint_is_left_out(self) -> None:
        both = observed(ONE, ApplicationState.RUNNING) | observed(TWO, ApplicationState.RUNNING)
        assert plan_serve([ONE], both, None, NOW).document == (make_application(ONE),)

    def test_the_last_one_is_stopped_by_an_empty_document(self) -> None:
        assert plan_serve([], observed(ONE, ApplicationState.RUNNING), None, NOW).document == ()

    def test_one_that_is_being_deleted_is_not_deleted_again(self) -> None:
        assert plan_serve([], observed(ONE, ApplicationState.DELETING), None, NOW).document is None

    def test_a_changed_model_is_put(self) -> None:
        changed = replace(ONE, model_version_id="mdv_9")
        plan = plan_serve([changed], observed(ONE, ApplicationState.RUNNING, replicas=2), None, NOW)
        assert plan.document == (make_application(changed),)
        assert plan.endpoints == (EndpointPlan("ep_1", S.STARTING, "a change is being rolled out", 0),)

    def test_the_order_of_keys_is_no_difference(self) -> None:
        args = dict(reversed(list(make_application(ONE).args.items())))
        seen = {"ep_1": ObservedApplication("ep_1", ApplicationState.RUNNING, args=args)}
        assert plan_serve([ONE], seen, None, NOW).document is None

    def test_a_new_head_gets_everything_again(self) -> None:
        ready = replace(ONE, state=S.READY, ready_replicas=2)
        plan = plan_serve([ready], {}, None, NOW)
        assert plan.document == (make_application(ONE),)
        assert plan.endpoints == (
            EndpointPlan("ep_1", S.STARTING, "the cluster was restarted; the endpoint is deployed again", 0),
        )

    @pytest.mark.parametrize(("age_s", "put"), [(1, False), (16, True)])
    def test_the_same_document_is_not_put_again_at_once(self, age_s: float, put: bool) -> None:
        last = LastPut(digest_of([make_application(ONE)]), NOW - timedelta(seconds=age_s))
        assert (plan_serve([ONE], {}, last, NOW).document is not None) is put

    def test_a_cluster_that_is_away_changes_no_state_and_gets_no_document(self) -> None:
        ready = replace(ONE, state=S.READY, ready_replicas=2)
        plan = plan_serve([ready, TWO], None, None, NOW)
        assert plan.document is None
        assert plan.endpoints == (
            EndpointPlan("ep_1", S.READY, "the cluster does not answer; its replicas may still serve", 2),
            EndpointPlan("ep_2", S.PENDING, "the cluster does not answer; the endpoint is deployed when it is back", 0),
        )


class TestPlanEndpoint:
    @pytest.mark.parametrize(
        ("before", "state", "message", "replicas", "expected"),
        [
            (S.STARTING, ApplicationState.DEPLOYING, "", 0, (S.STARTING, "the engine loads the model", 0)),
            (S.STARTING, ApplicationState.RUNNING, "", 0, (S.STARTING, "the engine loads the model", 0)),
            (S.STARTING, ApplicationState.RUNNING, "", 1, (S.READY, "1 of 2 replicas answer", 1)),
            (
                S.READY,
                ApplicationState.DEPLOYING,
                "",
                1,
                (S.READY, "1 of 2 replicas answer; the cluster brings up the rest", 1),
            ),
            (
                S.READY,
                ApplicationState.UNHEALTHY,
                "replica died",
                0,
                (S.STARTING, "the cluster restarts a replica: replica died", 0),
            ),
            (
                S.STARTING,
                ApplicationState.FAILED,
                "Deploying failed:\nTraceback\nValueError: no room",
                0,
                (S.FAILED, "the engine could not start: Deploying failed … ValueError: no room", 0),
            ),
            (S.FAILED, ApplicationState.RUNNING, "", 2, (S.READY, "2 of 2 replicas answer", 2)),
        ],
    )
    def test_tells_the_state_and_why(
        self,
        before: EndpointState,
        state: ApplicationState,
        message: str,
        replicas: int,
        expected: tuple[EndpointState, str, int],
    ) -> None:
        endpoint = replace(ONE, state=before)
        plan = plan_endpoint(endpoint, observed(endpoint, state, message, replicas)["ep_1"])
        assert plan == EndpointPlan("ep_1", *expected)
