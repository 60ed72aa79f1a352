"""The gateway: HTTP, the checks of requests, the batcher, the weights API. Needs no torch and no GPU."""
