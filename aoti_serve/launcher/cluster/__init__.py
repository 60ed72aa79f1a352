"""Ray and Serve as the launcher uses them."""
