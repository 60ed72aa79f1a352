"""What a gateway measures: counted once, for Triton's statistics and for Prometheus alike."""
