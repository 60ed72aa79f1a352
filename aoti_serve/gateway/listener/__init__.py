"""The gateway's own HTTP server: its port, its connections and their limits, and its end without lost requests."""
