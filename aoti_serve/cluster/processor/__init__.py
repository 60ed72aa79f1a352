"""The processes of processors: Serve places, watches and replaces them."""
