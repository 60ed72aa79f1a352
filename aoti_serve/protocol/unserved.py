"""What Triton has and this server not, whatever the protocol: why, and what to do instead."""

from __future__ import annotations

from aoti_serve.errors import NotServed

LOADING = NotServed(
    what="loading of models",
    instead="the configuration names the models; POST /v2/models/{model}/weights changes the weights of one",
)
REQUEST_TRACING = NotServed(
    what="tracing of single requests", instead="send an X-Request-ID: the answer and the gateway's log have it"
)
LOG_SETTINGS = NotServed(what="a change of the log's settings", instead="they stand in the configuration")
SHARED_MEMORY = NotServed(
    what="shared memory", instead="the model may run on another machine; send the tensors as binary data"
)
GENERATION = NotServed(
    what="generation of text", instead="a model takes and gives tensors; send them to /v2/models/{model}/infer"
)
