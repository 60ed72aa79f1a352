"""One package on one device: what it is, how it is made, and the container that runs it and swaps its weights."""
