"""Weights as data: files, their versions in a store, and the swap as a pure state machine. No Ray, no torch."""
