"""What a container holds in memory: two constant buffers, the versions in them, and a runtime for each."""
