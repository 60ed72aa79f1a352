"""The URLs at which the applications of a server answer."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import httpx

from aoti_serve.config import GatewayConfig
from aoti_serve.launcher.configuration.config_file import ConfigFile, Ours
from aoti_serve.launcher.processes.ports import is_loopback, is_wildcard

LOOPBACK = "127.0.0.1"
ENDPOINT_ANSWER_S = 5.0


class Endpoint(NamedTuple):
    """The URL of one of our applications, and the PEM file that proves its identity if it speaks TLS."""

    application: str
    url: str
    certificate: str | None = None

    def ready(self) -> bool:
        with suppress(httpx.HTTPError):
            # No check of the certificate: it may be for another name, and only readiness is asked.
            return httpx.get(
                f"{self.url}/v2/health/ready", timeout=ENDPOINT_ANSWER_S, trust_env=False, verify=False
            ).is_success
        return False


def endpoint_of(application: Ours, config: ConfigFile, node: str = LOOPBACK) -> Endpoint:
    """The endpoint at the gateways' own port, or else behind Serve's proxies. `node` replaces a wildcard host."""
    gateway = application.gateway
    if gateway.http_port is None:
        host, port = config.proxy_address
        return Endpoint(application.name, f"http://{_authority(host, port, node)}{application.prefix}")
    scheme = "https" if gateway.tls else "http"
    certificate = str(gateway.tls.certificate) if gateway.tls else None
    return Endpoint(application.name, f"{scheme}://{_authority(gateway.host, gateway.http_port, node)}", certificate)


def only_here(gateway: GatewayConfig) -> bool:
    """True if gateways can be reached from their own machine only."""
    return gateway.http_port is not None and is_loopback(gateway.host)


def _authority(host: str, port: int, node: str) -> str:
    shown = node if is_wildcard(host) else host
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
