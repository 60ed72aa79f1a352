"""Which version of a model's weights answers a request.

`residents` says which there are, `sticky` which requests meet a candidate, and `sequences` which of them must stay with
the version that they have met; `answering` has them run, `answers` adds what a processor does, and `trial` counts both
versions apart.
"""
