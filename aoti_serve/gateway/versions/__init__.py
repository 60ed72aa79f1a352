"""Which version of a model's weights answers a request: `residents` says which there are, `sticky` which requests meet
a candidate, `answering` has them run, `answers` adds what a processor
does, and `trial` counts both versions apart.
"""
