"""The reference in docs/reference, written from the code, and the hook that shows the pages as a site."""
