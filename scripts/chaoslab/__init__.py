"""Faults against a real cluster under traffic, and a judge who reads every answer; `scripts/chaos` runs all of them."""
