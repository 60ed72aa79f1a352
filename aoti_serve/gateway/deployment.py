"""The gateway as a Serve deployment class. Serve places and watches it; clients use its own listener."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, NamedTuple

import ray
from fastapi import FastAPI
from ray import serve

from aoti_serve.cluster.metrics.definitions import GATEWAY_METRICS
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.processor.directory import ProcessorDirectory
from aoti_serve.cluster.scaling import METRIC
from aoti_serve.cluster.serve_log import join_serve_log
from aoti_serve.config import GatewayConfig, ModelConfig
from aoti_serve.gateway.access import Access
from aoti_serve.gateway.data_plane import DataPlane
from aoti_serve.gateway.figures.report import FiguresReport
from aoti_serve.gateway.grpc.methods import grpc_methods
from aoti_serve.gateway.grpc.server import grpc_listener
from aoti_serve.gateway.http.app import build_app
from aoti_serve.gateway.listener.http import http_listener
from aoti_serve.gateway.listener.server import Listener
from aoti_serve.gateway.processing.processing import Processing
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.processor.declared import Declared
from aoti_serve.signature.signature import Signature
from aoti_serve.token import TokenSet

# Requests in flight are many young objects: at Python's 700 the collector looks at them again and again.
YOUNG_OBJECTS = 10_000
DRAIN_S = 30.0


class ModelBinding(NamedTuple):
    """The parts of a model that a gateway needs: bound deployments in the builder, handles once Serve has placed it.

    Gateways reach `replicas` over the link. They stand here so that Serve starts them with the gateway. A model with a
    processor has `processors`, and what they have `declared`.
    """

    config: ModelConfig
    signature: Signature
    coordinator: Any
    replicas: Any
    processors: Any = None
    declared: Declared | None = None


class Gateway:
    """A gateway joins every model, or one of them after `JOIN_S`, waits for replicas as long again, and listens.

    So where it takes the place of another, that one answers until there is no wait any more. It answers for a model
    only after it has joined it: then it knows what is committed, and lets no older answer out.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, config: GatewayConfig, models: list[ModelBinding], admin: TokenSet
    ) -> None:
        join_serve_log()
        gc.set_threshold(YOUNG_OBJECTS)
        self._access = Access(config, admin)
        context, runtime = serve.get_replica_context(), ray.get_runtime_context()
        name, node = context.replica_id.unique_id, runtime.get_node_id()
        served = [
            ServedModel(name, node, m.config, m.signature, m.coordinator, config, _processing(m, config, name, node))
            for m in models
        ]
        self._plane = DataPlane(served, config.max_reading_bytes)
        self._app = build_app(self._plane, self._access, config)
        await self._plane.join()
        self._access.watch()
        self._listeners: list[Listener] = []
        report = FiguresReport(self._plane, self._connections, MetricExport(GATEWAY_METRICS))
        self._reporting = asyncio.get_running_loop().create_task(report.run())
        owner = f"{runtime.gcs_address}/{context.app_name}"
        if config.http_port is not None:
            self._listeners.append(http_listener(self._app, config, owner))
        if config.grpc_port is not None:
            methods = grpc_methods(self._plane, self._access, config)
            self._listeners.append(grpc_listener(methods, self._plane.budget, config, owner))
        await self._plane.become_ready()
        for listener in self._listeners:
            await listener.open()
        gc.freeze()  # these objects stay: a full collection, which stops all requests, need not scan them

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The ASGI app for Serve's own proxies, where they are used."""
        return self._app

    def check_health(self) -> None:
        self._plane.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The load of this gateway, for Serve; see `by_load`."""
        return {METRIC: float(self._plane.door.inside)}

    def _connections(self) -> int:
        return sum(listener.connections for listener in self._listeners)

    async def drain(self) -> int:
        """Take no new inference requests from now on. Returns how many are still in flight."""
        self._plane.drain()
        return self._plane.door.inside

    async def __del__(self) -> None:
        """Answer what still comes, then close. Serve awaits this when it stops the gateway.

        Clients go over to another gateway meanwhile, as every answer is the last one of its connection; where there is
        none, as all end, `drain` has been called before.
        """
        self._plane.leave()
        self._reporting.cancel()
        await asyncio.gather(*(listener.close(DRAIN_S) for listener in self._listeners))
        await self._plane.close()
        self._access.close()


def _processing(bound: ModelBinding, limits: GatewayConfig, gateway: str, node: str) -> Processing | None:
    config = bound.config
    if config.processor is None or bound.declared is None:
        return None
    directory = ProcessorDirectory(bound.processors, node)
    return Processing(
        config.name, config.processor, bound.declared, bound.signature, limits, directory, (gateway, node)
    )
