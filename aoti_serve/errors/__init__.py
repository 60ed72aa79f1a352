"""Every error that aoti-serve raises on purpose.

AotiServeError                      500
├── InvalidInput                    400  the request does not fit the signature or the protocol
│   ├── InvalidBody                      the body is not a V2 request
│   ├── UnknownInput, MissingInput, UnknownOutput, RepeatedOutput
│   ├── TooManyTensors, TooManyRows, EmptyRows
│   └── WrongInputDtype, WrongInputShape, WrongInputLength, InvalidInputData, IndexOutOfRange
├── UnknownModel, UnknownVersion    404
├── BodyTooLarge                    413
│   └── JsonTooLarge                     its JSON alone
├── InvalidConfig                   400
├── WeightsError
│   ├── InvalidWeights              400  the weights do not fit the package
│   │   ├── UnreadableWeights, DigestMismatch
│   │   ├── WeightsTooLarge         413  the file, its header, or the number of its tensors
│   │   ├── UnknownTensor
│   │   │   └── UnknownOrBakedTensor  or compiled in; this package does not tell
│   │   ├── MissingTensor, WrongTensorDtype, WrongTensorShape, UnfitTensor
│   │   ├── TiedTensorsDiffer, ConstantIsBaked
│   │   └── WeightsDoNotRun              tried before they are committed, they fail
│   ├── UploadFailed                400  the bytes have not all arrived
│   ├── SwapInProgress              409
│   ├── StageFailed                 (the status of its cause) a replica could not stage; nothing has changed
│   ├── BadIndexInWeights               500
│   ├── StageWithdrawn              409  a stage was stopped under way
│   ├── NothingStaged, NothingToRollBack, BuiltInWeightsReleased, VersionTaken      409
│   ├── BaseVersionMismatch, BaseHasNoFile                                          409
│   ├── Superseded                  503  a newer coordinator has taken over; nothing was committed
│   ├── NotSettled                  503  ... and completes what was committed
│   ├── UnknownWeightsVersion       404
│   ├── SourceRefused               403  a URI outside the allowed roots
│   ├── StoreFailed                 507  the versions could not be written or read
│   │   └── StoreDamaged                 a file in the store is not what was written there
│   ├── CommitUnknown               503  the store did not answer; the next coordinator reads what stands
│   ├── NotEnoughMemory             507  a replica has no room to stage; nothing has changed
│   └── WeightsMissing              503  a package without weights was asked to run
├── PackageError
│   ├── UnreadablePackage, UnknownSignature, IncompatiblePackage, BakedConstants
│   ├── WrongOutput                      a package gives what its declared signature does not say
│   ├── MissingOperators                 custom operators that nobody has imported
│   ├── ExportFailed                     torch could not export or compile the module
│   └── UnsupportedModule                export cannot describe this module
├── Unauthorized                    401, AdminClosed 403
├── Unavailable                     503
│   ├── TryAgain                         for any other reason
│   ├── Stopping                         it takes no new requests any more
│   ├── QueueFull                        as much waits in the gateway as may wait
│   ├── ReadingTooMuch                   ... or is being read
│   ├── VersionsDiffer                   a request in pieces was overtaken by one swap after the other
│   ├── ReplicaBehind                    a replica has not reached the fence in time
│   ├── ReplicaDied
│   ├── LinkBroken, LinkRefused          between processes of the server
│   └── ContainerClosed
├── DeadlineExceeded                504  the request's own timeout
├── PoisonRequest                   500  two replicas died over it
├── ReplicaFailed                   500  a replica raised none of these
├── RuntimeFailed                   500  AOTInductor reported an error of its own
├── ServerUnreachable, ServerRefused, NoAdminToken    what the command line meets
├── PortTaken                            the gateway's port
└── StartFailed                          `up` or a gateway could not start
    └── BadCertificate                   the gateway's TLS

An error is its facts: they are keyword arguments, the text is made from them, and both survive pickling, since Ray
pickles whatever a replica raises. A class that only groups others has no facts and is not raised itself.

To add an error, write it into the module of its family, and into the tree above:

    class TooManyRows(InvalidInput, text="{rows} rows, the limit is {limit} (gateway.max_request_rows)"):
        ...  # its docstring
        rows: int
        limit: int
"""

from __future__ import annotations

from aoti_serve.errors.base import *
from aoti_serve.errors.package import *
from aoti_serve.errors.request import *
from aoti_serve.errors.server import *
from aoti_serve.errors.store import *
from aoti_serve.errors.tensors import *
from aoti_serve.errors.weights import *
