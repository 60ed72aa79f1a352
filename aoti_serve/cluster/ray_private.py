"""All uses of Ray's private parts. Read in Ray 2.60; a test fails when one of them changes.

Imports stand in the functions: commands that need no cluster do not wait for Ray.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


def actors_in(state: str) -> list[dict[str, Any]]:
    """The actors in a state, as "ALIVE": their processes run. Raises if the control store cannot be asked now.

    Public lists, as `list_named_actors`, do not tell those that only wait for a place, nor of those that have ended.
    """
    from ray._private.state import actors

    return list(actors(actor_state_name=state).values())


def over_grpc(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The same deployment, called over gRPC in every mode of Serve; messages are limited to 4 MB.

    By actor call, Serve's other way, the callee waits at the end of each answer until the caller has taken it, with its
    whole event loop: one caller that is stopped would stop the coordinator.
    """
    return handle.options(_by_reference=False)


def from_any_thread(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The same handle, for a thread without an event loop in a process that may have one."""
    handle._init(_run_router_in_separate_loop=True)
    return handle


def metrics_at(port: int) -> dict[str, int]:
    """The option of `ray.init` by which a new cluster shows its metrics at this port; at 0 Ray chooses one."""
    return {"_metrics_export_port": port}


def silence_raylets() -> None:
    """Print nothing of what raylets tell this driver, as that a worker died; `ray.init` silences only workers.

    Ray reads RAY_DEDUP_LOGS_SKIP_REGEX for that, but as soon as it is imported, and its workers would inherit it.
    """
    from ray._private.ray_logging import stdout_deduplicator

    stdout_deduplicator.skip_re = re.compile("")


def resources_here() -> dict[str, float]:
    """The cores and GPUs that a cluster would have that is started here, as Ray counts them."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
    from ray._private.utils import get_num_cpus

    return {"CPU": get_num_cpus(), "GPU": NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()}


def serve_client() -> Any:
    """The client that `serve deploy` uses: it deploys, lists and deletes applications without a dashboard."""
    from ray.serve.context import _get_global_client

    return _get_global_client()


def deployed_applications() -> dict[str, Any]:
    """The configurations that Serve was given, by application."""
    import ray

    found: dict[str, Any] = ray.get(serve_client()._controller.get_app_configs.remote())
    return found
