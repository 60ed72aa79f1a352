"""Where weights come from: paths and URIs that an operator has allowed."""
