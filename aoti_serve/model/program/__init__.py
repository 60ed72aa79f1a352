"""From a module to an exported program: its description, its guards, and the comparison with the compiled code."""
