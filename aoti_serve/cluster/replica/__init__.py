"""The replica of a model: a Serve deployment whose processes own a container each."""
