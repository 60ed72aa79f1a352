"""Batching: admission, order, departure, and the handling of failed runs.

The whole policy is described in `batcher`. The decisions are pure, except for the event loop's clock.
"""
