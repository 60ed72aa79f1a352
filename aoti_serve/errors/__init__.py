"""Every error that aoti-serve raises on purpose. Their tree stands in tests/unit/test_errors.py, with their statuses.

An error is its facts: they are keyword arguments, the text is made from them, and both survive pickling, since Ray
pickles whatever a replica raises. A class that only groups others has no facts and is not raised itself.

To add an error, write it into the module of its family, and into the tree:

    class TooManyRows(InvalidInput, text="{rows} rows, the limit is {limit} (gateway.max_request_rows)"):
        ...  # its docstring
        rows: int
        limit: int

A longer `text` stands in the body of its class.
"""

from __future__ import annotations

from aoti_serve.errors.base import *
from aoti_serve.errors.candidate import *
from aoti_serve.errors.command import *
from aoti_serve.errors.package import *
from aoti_serve.errors.processor import *
from aoti_serve.errors.request import *
from aoti_serve.errors.server import *
from aoti_serve.errors.succession import *
from aoti_serve.errors.tensors import *
from aoti_serve.errors.weights import *
from aoti_serve.errors.words import *
