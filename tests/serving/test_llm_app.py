"""What an endpoint's settings become: engine arguments and resources. The engine itself runs in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finmaas_serving.llm_app import EndpointArgs, EngineSpec, plan_bundles, plan_engine_arguments

ARGS = {"endpoint_id": "ep_1", "model_version_id": "mdv_1", "model_name": "default/default/banking"}


class TestEndpointArgs:
    def test_what_the_control_plane_writes_is_read(self) -> None:
        endpoint = EndpointArgs.model_validate({**ARGS, "replicas": 2, "engine": {"max_model_len": 512}})
        assert (endpoint.replicas, endpoint.engine.max_model_len) == (2, 512)

    @pytest.mark.parametrize("wrong", [{"replicas": 0}, {"engine": {"max_modell_len": 1}}, {"secret": "x"}])
    def test_unknown_or_impossible_settings_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            EndpointArgs.model_validate({**ARGS, **wrong})


class TestPlanEngineArguments:
    @pytest.mark.parametrize(
        ("engine", "on_gpu", "expected"),
        [
            ({}, False, {"enforce_eager": True, "dtype": "auto", "tensor_parallel_size": 1}),
            ({}, True, {"dtype": "auto", "tensor_parallel_size": 1}),
            (
                {"max_model_len": 512, "dtype": "float16", "enforce_eager": False},
                False,
                {"enforce_eager": False, "max_model_len": 512, "dtype": "float16", "tensor_parallel_size": 1},
            ),
            (
                {"device": "gpu", "vllm": {"max_num_batched_tokens": 4096, "dtype": "bfloat16"}},
                True,
                {"dtype": "bfloat16", "tensor_parallel_size": 1, "max_num_batched_tokens": 4096},
            ),
        ],
    )
    def test_ours_then_the_users_own(self, engine: dict[str, Any], on_gpu: bool, expected: dict[str, Any]) -> None:
        assert plan_engine_arguments(EngineSpec.model_validate(engine), on_gpu=on_gpu) == expected


class TestPlanBundles:
    def test_one_slot_without_a_gpu(self) -> None:
        assert plan_bundles(EngineSpec(), on_gpu=False) == [{"CPU": 1}]

    def test_one_gpu_a_shard_and_the_replica_beside_the_first(self) -> None:
        engine = EngineSpec(tensor_parallel_size=3)
        assert plan_bundles(engine, on_gpu=True) == [{"CPU": 1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}]
