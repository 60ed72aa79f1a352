"""The console: one page that shows a server at work, and changes its weights. Files only; it asks the public routes."""
