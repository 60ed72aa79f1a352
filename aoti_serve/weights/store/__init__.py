"""The store of versions: on a disk, or at a URI."""
