"""The inputs, outputs and constants of a model, which every room shares. No Ray; only `torch_private` imports torch."""
