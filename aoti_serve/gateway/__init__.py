"""The front: the protocol over HTTP, the checks, the batcher, the weights API. Needs no torch and no GPU."""
