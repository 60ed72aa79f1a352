"""Where versions are kept: on a disk, or at a URI."""
