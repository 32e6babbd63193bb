"""Batches run to their end: through failures, waits, cancellation, expiry, and a control plane killed anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import event, select

from finmaas_core.clock import FakeClock
from finmaas_platform.db.allowances import AllowanceRow
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.batches import BatchLineRow, BatchRow, FileRow
from finmaas_platform.db.ledger import LedgerSliceRow, LedgerWindowRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.batches import BatchState, LineState, Outcome, Step, decide_outcome, plan_batch
from finmaas_platform.reconcile.batches import BatchReconciler
from finmaas_platform.services import ledger
from finmaas_platform.services.batches import cancel_batch, create_batch, show_batch
from finmaas_platform.services.files import find_key_caller, store_file
from finmaas_platform.services.usage import store_usage
from finmaas_serving.gateway.batch_pass import find_batch_key
from finmaas_serving.gateway.snapshot import Key

Answer = Callable[[dict[str, Any]], httpx.Response]
ENDPOINT = "/v1/chat/completions"


class World:
    """A project with a key, and a gateway that answers as it is told and reports what it charged."""

    def __init__(self, deps: Deps, clock: FakeClock) -> None:
        self.deps, self.clock = deps, clock
        self.answer: Answer = lambda body: httpx.Response(200, json={"said": body["messages"][0]["content"]})
        self.asked: Counter[str] = Counter()
        self.seq = 0
        self.charged: dict[str, Any] = {"charges": [], "epoch": 0}
        with unit_of_work(deps.sessions) as session:
            project = session.scalars(select(ProjectRow)).first()
            assert project is not None
            self.key = ApiKeyRow(
                id="key_1", hash="0" * 64, tenant_id=project.tenant_id, project_id=project.id, name="k", models=["*"],
                methods=["*"], networks=[], created_at=clock.now(), created_by="x", expires_at=None, revoked_at=None,
            )  # fmt: skip
            session.add(self.key)
        self.reconciler = self.restart()

    def restart(self) -> BatchReconciler:
        reconciler = BatchReconciler(self.deps, transport=httpx.MockTransport(self.serve))
        reconciler.prepare()
        self.reconciler = reconciler
        return reconciler

    def serve(self, request: httpx.Request) -> httpx.Response:
        """What a gateway does: checks the pass, answers, and delivers the usage record."""
        credential = request.headers["authorization"].removeprefix("Bearer ").encode()
        known = Key(hash="0" * 64, key_id="key_1", project_id="p", project="p", tenant_id="t")
        pepper = self.deps.secrets.pepper.encode()
        found = find_batch_key({"0" * 64: known}, pepper, credential, self.clock.now().timestamp() - 10**9)
        assert found is not None
        self.asked[found.line] += 1
        answer = self.answer(json.loads(request.content))
        self.report(found.line, answer.status_code)
        return answer

    def report(self, line: str, status: int) -> None:
        self.seq += 1
        record = {
            "seq": self.seq, "request_id": line, "at": self.clock.now(), "key_id": "key_1",
            "project_id": self.key.project_id, "tenant_id": self.key.tenant_id, "endpoint_id": "ep_1",
            "model_version_id": None, "path": ENDPOINT, "status": status, "stream": False,
            "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "ttft_ms": None, "duration_ms": 1.0,
            "replica": None, "finish": "complete", "counted_by": "engine", **self.charged,
        }  # fmt: skip
        with unit_of_work(self.deps.sessions) as session:
            store_usage(session, "gw-1", [record])

    def add(self, texts: list[str]) -> str:
        lines = [
            {"custom_id": f"c{i}", "method": "POST", "url": ENDPOINT,
             "body": {"model": "chat", "messages": [{"role": "user", "content": text}]}}
            for i, text in enumerate(texts)
        ]  # fmt: skip
        stored = self.deps.store.put([b"\n".join(json.dumps(line, ensure_ascii=False).encode() for line in lines)])
        now = self.clock.now()
        with unit_of_work(self.deps.sessions) as session:
            owner = find_key_caller(session, "key_1", now)
            file = store_file(session, owner, now, "in.jsonl", "batch", stored)
            session.flush()
            body = {"endpoint": ENDPOINT, "input_file_id": file.id, "completion_window": "24h"}
            return create_batch(session, owner, now, body).id

    def show(self, batch_id: str) -> dict[str, Any]:
        with read_unit(self.deps.sessions) as session:
            row = session.get(BatchRow, batch_id)
            assert row is not None
            return show_batch(row)

    def read(self, file_id: str | None) -> list[dict[str, Any]]:
        with read_unit(self.deps.sessions) as session:
            file = session.get(FileRow, file_id)
            assert file is not None
        return [json.loads(line) for line in b"".join(self.deps.store.open(file.digest)).splitlines()]

    def run(self, batch_id: str, steps: int = 50) -> dict[str, Any]:
        for _ in range(steps):
            self.reconciler.run_once()
            self.clock.advance(61)
            if (shown := self.show(batch_id))["status"] in ("completed", "failed", "cancelled", "expired"):
                return shown
        raise AssertionError(f"not settled: {self.show(batch_id)}")

    def tokens(self) -> int:
        with read_unit(self.deps.sessions) as session:
            return sum(session.scalars(select(UsageRecordRow.prompt_tokens)))


@pytest.fixture
def world(deps: Deps, clock: FakeClock) -> World:
    return World(deps, clock)


class TestRuns:
    def test_every_line_once_and_in_order(self, world: World) -> None:
        texts = [f"text {i} 你好" for i in range(150)]
        batch_id = world.add(texts)
        shown = world.run(batch_id)
        assert (shown["status"], shown["request_counts"]) == (
            "completed", {"total": 150, "completed": 150, "failed": 0},
        )  # fmt: skip
        told = world.read(shown["output_file_id"])
        assert [line["custom_id"] for line in told] == [f"c{i}" for i in range(150)]
        assert [line["response"]["body"]["said"] for line in told] == texts
        assert {line["response"]["status_code"] for line in told} == {200}
        assert shown["error_file_id"] is None
        assert set(world.asked.values()) == {1}
        assert world.tokens() == 1500

    def test_what_a_request_is_refused_for_is_told_and_not_tried_again(self, world: World) -> None:
        def answer(body: dict[str, Any]) -> httpx.Response:
            bad = body["messages"][0]["content"] == "bad"
            return httpx.Response(400, json={"error": {"message": "no"}}) if bad else httpx.Response(200, json={})

        world.answer = answer
        shown = world.run(world.add(["good", "bad"]))
        assert shown["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        [line] = world.read(shown["error_file_id"])
        assert (line["custom_id"], line["response"]["status_code"]) == ("c1", 400)
        assert line["response"]["body"] == {"error": {"message": "no"}}
        assert set(world.asked.values()) == {1}

    def test_a_fault_of_the_models_is_tried_three_times(self, world: World) -> None:
        world.answer = lambda _: httpx.Response(502, text="no json")
        shown = world.run(world.add(["x"]))
        assert (shown["status"], shown["request_counts"]["failed"]) == ("completed", 1)
        [line] = world.read(shown["error_file_id"])
        assert line["response"]["body"] == "no json"
        assert list(world.asked.values()) == [3]

    def test_no_allowance_left_makes_it_wait(self, world: World) -> None:
        answers = iter([httpx.Response(429, headers={"retry-after": "30"})] * 5)
        world.answer = lambda _: next(answers, httpx.Response(200, json={}))
        shown = world.run(world.add(["x"]))
        assert shown["request_counts"]["completed"] == 1
        assert list(world.asked.values()) == [6]

    def test_a_gateway_that_is_away_makes_it_wait(self, world: World) -> None:
        def answer(_: dict[str, Any]) -> httpx.Response:
            if sum(world.asked.values()) < 4:
                raise httpx.ConnectError("refused")
            return httpx.Response(200, json={})

        world.answer = answer
        assert world.run(world.add(["x"]))["request_counts"]["completed"] == 1


class TestEnds:
    def test_cancelled_keeps_what_was_answered(self, world: World) -> None:
        batch_id = world.add(["a", "b", "wait"])

        def answer(body: dict[str, Any]) -> httpx.Response:
            waits = body["messages"][0]["content"] == "wait"
            return httpx.Response(503 if waits else 200, json={})

        world.answer = answer
        for _ in range(2):
            world.reconciler.run_once()
        with unit_of_work(world.deps.sessions) as session:
            row = session.get(BatchRow, batch_id)
            assert row is not None
            cancel_batch(session, find_key_caller(session, "key_1", world.clock.now()).caller, world.clock.now(), row)
        shown = world.run(batch_id)
        assert (shown["status"], shown["request_counts"]["completed"]) == ("cancelled", 2)
        assert len(world.read(shown["output_file_id"])) == 2
        [line] = world.read(shown["error_file_id"])
        assert (line["custom_id"], line["error"]["code"]) == ("c2", "batch_cancelled")

    def test_expired_keeps_what_was_answered(self, world: World) -> None:
        world.answer = lambda body: httpx.Response(503 if body["messages"][0]["content"] == "wait" else 200, json={})
        batch_id = world.add(["a", "wait"])
        for _ in range(3):
            world.reconciler.run_once()
        world.clock.advance(timedelta(hours=25).total_seconds())
        shown = world.run(batch_id)
        assert (shown["status"], shown["expired_at"] is not None) == ("expired", True)
        assert [line["custom_id"] for line in world.read(shown["output_file_id"])] == ["c0"]
        assert world.read(shown["error_file_id"])[0]["error"]["code"] == "batch_expired"

    def test_answers_leave_the_database_with_the_files(self, world: World) -> None:
        world.run(world.add(["a"]))
        with read_unit(world.deps.sessions) as session:
            assert session.scalars(select(BatchLineRow.answer)).all() == [None]


class KilledError(BaseException):
    """Not an Exception: nothing in the control plane may catch it, as nothing catches SIGKILL."""


class TestKilled:
    @pytest.fixture
    def points(self, world: World) -> Iterator[Callable[[int], None]]:
        """Arms a kill at the n-th commit, before or after it."""
        state = {"at": -1, "passed": 0}

        def point(_: object) -> None:
            state["passed"] += 1
            if state["passed"] == state["at"]:
                raise KilledError

        def arm(at: int) -> None:
            state.update(at=at, passed=0)

        for moment in ("before_commit", "after_commit"):
            event.listen(world.deps.sessions, moment, point)
        yield arm
        for moment in ("before_commit", "after_commit"):
            event.remove(world.deps.sessions, moment, point)

    def test_anywhere_nothing_is_lost_and_nothing_charged_twice(
        self, world: World, points: Callable[[int], None]
    ) -> None:
        kills = 0
        for at in range(1, 80):
            world.asked.clear()
            before = world.tokens()
            batch_id = world.add(["a", "b", "c"])
            points(at)
            try:
                shown = world.run(batch_id)
            except KilledError:
                kills += 1
                points(-1)
                world.restart()
                shown = world.run(batch_id)
            points(-1)
            assert (shown["status"], shown["request_counts"]) == (
                "completed", {"total": 3, "completed": 3, "failed": 0},
            )  # fmt: skip
            told = world.read(shown["output_file_id"])
            assert [line["response"]["body"]["said"] for line in told] == ["a", "b", "c"]
            assert world.tokens() - before == 30, f"killed at {at}"
        assert kills > 20

    def test_a_line_that_ran_twice_spends_its_allowances_once(self, world: World) -> None:
        now = world.clock.now()
        with unit_of_work(world.deps.sessions) as session:
            session.add(
                AllowanceRow(
                    id="alw_1", tenant_id=world.key.tenant_id, scope="key", scope_id="key_1", model="", label="k",
                    unit="tokens", window_kind="month", amount=100, currency="", created_at=now, created_by="x",
                )
            )  # fmt: skip
            epoch = ledger.open_epoch(session, "gw-1", now)
            want = ledger.Want("alw_1", int(now.timestamp()), now.timestamp(), 0, 60, 1)
            step = ledger.take_step(session, "gw-1", epoch, [], [want], ledger.Asking(), now, last=True)
        (grant,) = step.grants
        world.charged = {"charges": [(grant["slice"], 15)], "epoch": epoch}
        world.run(world.add(["a"]))
        (line,) = world.asked
        world.report(line, 200)  # as after a crash between the answer and its note
        with read_unit(world.deps.sessions) as session:
            (window,), (slice_,) = session.scalars(select(LedgerWindowRow)), session.scalars(select(LedgerSliceRow))
            assert (window.settled, slice_.settled) == (15, 30)
            assert window.outstanding == slice_.granted - 30  # the gateway spent it twice, the allowance once


class TestDecisions:
    @pytest.mark.parametrize(
        ("status", "after", "attempts", "outcome"),
        [
            (200, None, 1, Outcome(LineState.DONE)),
            (400, None, 1, Outcome(LineState.FAILED)),
            (401, None, 1, Outcome(LineState.FAILED)),
            (429, 7.0, 1, Outcome(LineState.PENDING, 7.0, counts=False)),
            (429, 9e9, 9, Outcome(LineState.PENDING, 60.0, counts=False)),
            (503, None, 1, Outcome(LineState.PENDING, 1.0, counts=False)),
            (None, None, 1, Outcome(LineState.PENDING, 1.0, counts=False)),
            (502, None, 1, Outcome(LineState.PENDING, 2.0)),
            (504, None, 3, Outcome(LineState.FAILED)),
        ],
    )
    def test_outcome(self, status: int | None, after: float | None, attempts: int, outcome: Outcome) -> None:
        assert decide_outcome(status, after, attempts) == outcome

    @pytest.mark.parametrize(
        ("state", "pending", "late", "step"),
        [
            (BatchState.VALIDATING, 0, False, Step.VALIDATE),
            (BatchState.IN_PROGRESS, 3, False, Step.RUN),
            (BatchState.IN_PROGRESS, 3, True, Step.EXPIRE),
            (BatchState.IN_PROGRESS, 0, True, Step.FINISH),
            (BatchState.CANCELLING, 3, False, Step.FINISH),
        ],
    )
    def test_plan(self, clock: FakeClock, state: BatchState, pending: int, late: bool, step: Step) -> None:
        now = clock.now()
        assert plan_batch(state, pending, now + timedelta(seconds=-1 if late else 1), now) is step
