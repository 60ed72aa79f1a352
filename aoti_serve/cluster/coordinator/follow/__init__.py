"""Follows a place: reads it, and swaps to what is new there."""
