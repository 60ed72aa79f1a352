"""Golden requests: inputs of a model, and what weights must answer to them before they are committed. No torch, but in
tensors that come as torch's.
"""
