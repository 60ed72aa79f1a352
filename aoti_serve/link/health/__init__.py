"""Whether a replica can run its model: judged by outcomes of runs. Gateways judge replicas, and a replica itself."""
