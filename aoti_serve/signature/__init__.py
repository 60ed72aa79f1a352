"""What a model takes, gives and holds: values that every room shares. No torch, no Ray."""
