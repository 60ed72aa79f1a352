"""Weights as data: files, their versions on disk, and the swap as a pure state machine. No Ray, no torch."""
