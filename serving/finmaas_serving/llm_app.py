"""One endpoint as a Ray Serve application: vLLM held by `ray.serve.llm`, answering OpenAI requests on its own port.

Serve calls `build_app` in a short-lived worker and then starts the replicas. Only the replicas load vLLM: a worker that
imports it too, to build the application, costs some ten seconds of every deployment. Nothing here handles requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finmaas_serving.model_pull import check_model

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "engine"
_CONSTRUCTOR_TRIES = 2  # once more for what passes; a model that cannot load is reported soon


class EngineSpec(BaseModel):
    """Engine settings that an endpoint may choose; what is left out is vLLM's own default.

    `device` auto takes GPUs when the cluster has any. `vllm` passes further engine arguments under vLLM's own names.
    """

    model_config = ConfigDict(extra="forbid")

    device: Literal["auto", "cpu", "gpu"] = "auto"
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    enforce_eager: bool | None = None
    seed: int | None = None
    vllm: dict[str, Any] = Field(default_factory=dict)


class EndpointArgs(BaseModel):
    """What the control plane writes into Serve's document for one endpoint. It holds no secret."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    endpoint_id: str
    model_version_id: str
    model_name: str
    replicas: int = Field(default=1, ge=1)
    engine: EngineSpec = Field(default_factory=EngineSpec)


def build_app(args: dict[str, Any]) -> Application:
    """The Serve application of one endpoint. Raises InvalidInput, NotFound or Unavailable with the reason.

    The model version is looked up here, so that one that is not there fails at once and not after the replicas' tries.
    """
    import ray
    from ray import serve

    from finmaas_serving.llm_replica import LlmReplica

    endpoint = EndpointArgs.model_validate(args)
    check_model(endpoint.model_version_id)
    on_gpu = _wants_gpu(endpoint.engine, ray.cluster_resources())
    deployment = serve.deployment(
        serve.ingress()(LlmReplica),
        name=DEPLOYMENT,
        num_replicas=endpoint.replicas,
        max_ongoing_requests=1_000_000,  # vLLM queues, and knows why it does
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        ray_actor_options={"num_cpus": 1},
        placement_group_bundles=plan_bundles(endpoint.engine, on_gpu=on_gpu),
        placement_group_strategy="PACK",
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(endpoint.model_dump(), on_gpu)


def plan_bundles(engine: EngineSpec, *, on_gpu: bool) -> list[dict[str, float]]:
    """The resources of one replica: on CPUs one slot; on GPUs one GPU a shard, the replica beside the first."""
    if not on_gpu:
        return [{"CPU": 1.0}]
    return [{"CPU": 1.0, "GPU": 1.0}, *([{"GPU": 1.0}] * (engine.tensor_parallel_size - 1))]


def plan_engine_arguments(engine: EngineSpec, *, on_gpu: bool) -> dict[str, Any]:
    """Arguments of the engine, under vLLM's names. On CPUs no graph is compiled: that takes minutes and a compiler."""
    chosen = engine.model_dump(exclude={"device", "vllm"}, exclude_none=True)
    defaults = {} if on_gpu else {"enforce_eager": True}
    return {**defaults, **chosen, **engine.vllm}


def _wants_gpu(engine: EngineSpec, resources: dict[str, float]) -> bool:
    return engine.device == "gpu" or (engine.device == "auto" and resources.get("GPU", 0) > 0)
