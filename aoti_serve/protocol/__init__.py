"""The Open Inference Protocol V2, JSON, binary and protobuf: what a request says, and how an answer is written."""
