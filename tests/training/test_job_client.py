from __future__ import annotations

import threading
from typing import Any

import pytest

from finmaas_core.errors import NotAuthenticated, StaleAttempt, Unavailable
from finmaas_training.control import Checkpoint, Credentials, JobClient, fetch_job_token


@pytest.fixture
def client(control: Any) -> JobClient:
    return JobClient(Credentials(control.url, "job_test", 1, "fmj_test"), patience_s=20)


class TestFetchJobToken:
    def test_trades_the_node_token(self, control: Any) -> None:
        credentials = fetch_job_token(control.url, "job_test", 1, "fmn_test")
        assert credentials.token == "fmj_test"
        assert "fmj_test" not in repr(credentials)

    def test_stale_attempt_is_named(self, control: Any) -> None:
        with pytest.raises(StaleAttempt):
            fetch_job_token(control.url, "job_test", 7, "fmn_test")


class TestJobClient:
    def test_latest_checkpoint_of_none_is_none(self, client: JobClient) -> None:
        assert client.find_latest_checkpoint() is None

    def test_checkpoints_come_back_newest_first(self, client: JobClient) -> None:
        for step in (10, 30, 20):
            client.register_checkpoint(Checkpoint(step, (), {"step": step}))
        newest = client.find_latest_checkpoint()
        assert newest is not None
        assert newest.step == 30

    def test_waits_for_a_control_plane_that_comes_back(self, control: Any, client: JobClient) -> None:
        control.away = True
        timer = threading.Timer(0.5, lambda: setattr(control, "away", False))
        timer.start()
        client.post_result({"files": [], "metrics": {}})
        assert len(control.results) == 1

    def test_gives_up_when_its_patience_ends(self, control: Any, client: JobClient) -> None:
        control.away = True
        with pytest.raises(Unavailable):
            client.post_metrics([], None, patience_s=0)

    def test_wrong_token_is_named(self, control: Any) -> None:
        with pytest.raises(NotAuthenticated):
            JobClient(Credentials(control.url, "job_test", 1, "fmj_other")).get_inputs()

    def test_metrics_answer_tells_of_cancel(self, control: Any, client: JobClient) -> None:
        control.cancel = True
        assert client.post_metrics([{"step": 1, "values": {"loss": 1.0}}], None) is True
