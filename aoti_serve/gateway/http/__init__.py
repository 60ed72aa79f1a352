"""The protocol over HTTP: the hot path of inference, and all other routes."""
