"""Processes, signals and ports of this machine."""
