"""The sources of weights: paths and URIs that an operator has allowed."""
