"""How weights come into a container: as a stream of bytes, or as tensors in memory."""
