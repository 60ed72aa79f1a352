"""Servers of one model side by side over HTTP: ours, what else there is, and the limits of both.

`field` says who takes part: `ours`, and `peers` in all their settings, under the loads of `loads`. `servers` starts and
stops them, `verify` compares their answers with eager PyTorch, `wrk` and `h2load` measure, `rounds` lets them take
turns. `found` holds what came out; `targets` judges it, `report`, `tables` and `plot` show it.
`overload` is a benchmark of its own, with an open-loop client; so is `hostile`, with clients that nobody wants.
"""
