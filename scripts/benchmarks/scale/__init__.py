"""How swaps scale with members: in simulated time up to 10,000, over real connections with hundreds.

scripts/bench scale [--plot FILE] [--json]
"""
