"""Packages that export did not make: the facts in their generated code, their archive and the configuration."""
