"""The Open Inference Protocol V2 as protobuf: its messages to bytes and back, without protobuf's own code.

What is on the path of every inference is written by hand, so that tensors are not copied: `request` and `response`,
upon `contents`, `parameters`, `varints` and `wire`. All other messages are rows of `schema`, for `messages`.
"""
