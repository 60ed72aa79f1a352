"""Reading and checking of a configuration file. Nothing is started here."""
