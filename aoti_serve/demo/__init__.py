"""The demo: handwritten digits, trained, compiled and served, and traffic that shows what a swap changes."""
