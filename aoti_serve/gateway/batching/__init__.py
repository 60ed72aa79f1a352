"""How requests share runs: who may wait, who leaves when and with whom, and what becomes of failures.

The whole policy is told in `batcher`. What is decided here is pure but for the event loop's clock.
"""
