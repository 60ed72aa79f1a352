"""scripts/bench scale: what grows with the cluster, measured in simulated time."""
