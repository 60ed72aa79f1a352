"""The coordinator of a model's weights: a Serve deployment of one process."""
