"""The gateway's own HTTP/2 server side (RFC 9113), on the event loop: frames, headers, windows, streams, connections.

It knows nothing of gRPC, which is what it is here for. `hpack` decodes headers; the rest is ours, since a library that
does all of it takes four times as long for a call (docs/internals/performance.md).
"""
