"""Packages that export did not make: what their generated code, their archive or the configuration tells of them."""
