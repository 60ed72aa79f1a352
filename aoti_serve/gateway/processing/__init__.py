"""The processor of a model, as a gateway sees it: requests wait, share calls, and are checked when they return."""
