"""Links between processes. asyncio and bytes; no Ray, no torch.

A gateway has one to each replica, for batches and answers: `Link` is its end, `LinkServer` the replica's, `Pool` all
links of a gateway to the replicas of one model. A member has one to the coordinator, for reports and targets: see
`control`. A link is a Unix socket on one node, TCP across nodes. `frames` says what goes over it, `handshake` who may
use it.
"""
