"""Metrics for Prometheus: what there is, and the way to Ray's agent on each node, which exports them."""
