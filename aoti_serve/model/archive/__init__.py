"""The `.pt2` file itself: reading it, unpacking it once per node, and whether its code will run here."""
