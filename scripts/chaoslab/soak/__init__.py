"""Everything at once for a long time: whether anything is lost, and whether anything grows."""
