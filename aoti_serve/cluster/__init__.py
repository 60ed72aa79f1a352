"""Ray: replicas that own containers, the coordinator that changes their weights, and the link between them."""
