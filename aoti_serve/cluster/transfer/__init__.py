"""How the bytes of weights travel: from a client to the coordinator's node, and from there to every replica."""
