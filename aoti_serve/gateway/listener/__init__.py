"""The gateway's own HTTP server: its port, its connections and their limits, and its end without lost requests."""

from aoti_serve.gateway.listener.server import Listener

__all__ = ["Listener"]
