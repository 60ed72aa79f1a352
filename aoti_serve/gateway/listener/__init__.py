"""The gateway's own HTTP server: its port, its connections and their limits, and its way out."""

from aoti_serve.gateway.listener.server import Listener

__all__ = ["Listener"]
