"""The commands for the weights of a running server."""
