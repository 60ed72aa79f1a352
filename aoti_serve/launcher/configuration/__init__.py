"""What a configuration file asks for, and whether it can be had; nothing is started."""
