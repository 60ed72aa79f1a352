"""Commands for before a server runs: a demo, a first configuration, and what would keep one from starting."""
