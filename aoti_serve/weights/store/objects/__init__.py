"""A store at a URI: versions in parts, which are objects, and what new versions share with stored ones."""
