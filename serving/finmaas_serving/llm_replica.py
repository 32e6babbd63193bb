"""The process that holds one vLLM engine: a Ray Serve replica around `ray.serve.llm`'s server.

It fetches the model onto its node, starts the engine and hands Serve vLLM's own OpenAI application, which then listens
on the replica's own port. No request passes through our code. Ray and vLLM are imported when a replica starts, not
before: whoever builds the application does not pay for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finmaas_serving.llm_app import EndpointArgs, plan_bundles, plan_engine_arguments
from finmaas_serving.model_pull import pull_model, read_cluster_token
from finmaas_serving.replica_door import ReplicaDoor, derive_replica_secret

if TYPE_CHECKING:
    from pathlib import Path

    from ray.serve.llm import LLMConfig


class LlmReplica:
    """What Serve instantiates; `serve.ingress()` asks it for the ASGI application once it is started."""

    async def __init__(self, args: Mapping[str, Any], on_gpu: bool) -> None:  # type: ignore[misc]
        """Fetches the model and starts the engine. Serve awaits constructors, which Python's type system does not know.

        Raises what `pull_model` raises, and what the engine raises for a model or argument that it cannot take.
        """
        listen_on_the_nodes_address()
        endpoint = EndpointArgs.model_validate(args)
        folder = await asyncio.to_thread(pull_model, endpoint.model_version_id)
        self._server = make_server(endpoint, folder, on_gpu=on_gpu)
        await self._server.start()

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's application, as its own server would run it, behind a door that gateways alone can open.

        The door goes around the application: vLLM has built its stack by now, and takes no more middleware.
        """
        app = await self._server.engine.build_asgi_app()
        return ReplicaDoor(app, derive_replica_secret(read_cluster_token()))

    async def check_health(self) -> None:
        """Raises when the engine is dead; Serve then replaces the replica."""
        await self._server.check_health()


def listen_on_the_nodes_address() -> None:
    """Keeps the port on which Serve's deployments speak to each other on the address of this node.

    Serve binds it to every interface (`[::]:0`, fixed in ray 2.60.0's replica), and what it takes is pickled: on a node
    that is on loopback nobody else may reach it. It is bound after the constructor has run, hence from here.
    """
    import ray
    from ray.serve._private import replica

    address = ray.util.get_node_ip_address()
    bind = replica.add_port_to_grpc_server

    def bind_narrowly(server: Any, wanted: str) -> Any:
        return bind(server, wanted.replace("[::]", address))

    replica.add_port_to_grpc_server = bind_narrowly


def make_server(endpoint: EndpointArgs, folder: Path, *, on_gpu: bool) -> Any:
    """An LLMServer of `ray.serve.llm`, not started yet."""
    from ray.serve.llm.deployment import LLMServer

    class Server(LLMServer):  # type: ignore[misc]
        """Leaves out Ray's telemetry, for which one more process would be started at every first deployment."""

        async def _start_engine(self) -> None:
            await self.engine.start()

    config = make_llm_config(endpoint, folder, on_gpu=on_gpu)
    alone = not on_gpu and endpoint.engine.tensor_parallel_size == 1
    return Server.sync_init(config, engine_cls=_one_process_engine() if alone else None)


def make_llm_config(endpoint: EndpointArgs, folder: Path, *, on_gpu: bool) -> LLMConfig:
    """The configuration of `ray.serve.llm` for an engine that reads its model from a folder of this node."""
    from ray.serve.llm import LLMConfig

    config = LLMConfig(
        model_loading_config={"model_id": endpoint.model_name, "model_source": str(folder)},
        engine_kwargs=plan_engine_arguments(endpoint.engine, on_gpu=on_gpu),
        placement_group_config={"bundles": plan_bundles(endpoint.engine, on_gpu=on_gpu)},
        # vLLM's own Prometheus metrics, under /metrics of the replica, cost less than the same through Ray.
        log_engine_metrics=False,
    )
    if endpoint.engine.tensor_parallel_size == 1:
        # The engine is all on this node and the model is here: no task has to be started to fetch it.
        config.get_or_create_callback().ctx.run_init_node = False
    return config


def _one_process_engine() -> type[Any]:
    """An engine that runs the model in the scheduler's process.

    On CPUs vLLM puts the model into a process of its own, to bind its threads to cores, and speaks to it at every step.
    On a machine whose cores are shared that costs a tenth of the throughput and ten seconds of each start (importing
    vLLM once more), and the binding harms what else runs there. Production runs on GPUs and does not come this way.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class OneProcessEngine(VLLMEngine):  # type: ignore[misc]
        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))  # one is for the requests
            engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
            engine_args.distributed_executor_backend = "uni"
            config.parallel_config.distributed_executor_backend = "uni"
            return engine_args, frontend_args, config

    return OneProcessEngine
