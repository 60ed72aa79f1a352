"""Dimensions that may vary: what `dynamic_shapes` says of them, and what torch makes of it."""
