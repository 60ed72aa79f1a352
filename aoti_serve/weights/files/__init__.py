"""Files of weights: what is in them, whether it fits, and two made one."""
