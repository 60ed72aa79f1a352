"""Processors: a model's own code before and after it. What they declare, what goes to them and comes back, their runs.

No Ray, no sockets. `declared` reads a class, `packed` makes arrays of requests, `runs` calls it, `watch` ends a process
whose call does not return.
"""
