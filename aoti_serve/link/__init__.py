"""The link from a gateway to a replica: batches go, answers come. asyncio and bytes; no Ray, no torch.

One connection for each gateway and replica: a Unix socket on one node, TCP across nodes. `frames` says what goes over
it, `handshake` who may use it, `Link` is the gateway's end, `LinkServer` the replica's, `Pool` all of a gateway's links
to the replicas of one model.
"""
