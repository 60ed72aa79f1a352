"""Servers of one model side by side over HTTP: ours, what else there is, and the limits of both.

`contenders` says who takes part and `servers` how they are started and stopped; `verify` compares their answers with
eager PyTorch; `wrk` measures; `rounds` lets them take turns; `targets`, `report` and `plot` show what came out.
`overload` is a benchmark of its own, with an open-loop client.
"""
