"""The inputs, outputs and constants of a model: values that every room shares. No torch, no Ray."""
