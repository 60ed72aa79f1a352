"""Two applications on one store: one leads, and the other one follows."""
