"""The transfer of weights: from a client to the coordinator's node, and from there to every replica."""
