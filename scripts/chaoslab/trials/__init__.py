"""Faults while a candidate is out, and at each step of a rollout: every strike at every stage."""
