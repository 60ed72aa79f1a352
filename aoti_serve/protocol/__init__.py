"""The Open Inference Protocol V2, JSON and binary: what a request says, and how an answer is written."""
