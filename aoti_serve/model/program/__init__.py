"""From a module to what is compiled: the exported program, its description, its guards, and what became of it."""
