"""Requests as protobuf's own messages, most of which can be answered."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np

from aoti_serve.signature.tensors import BY_OIP
from tests.unit.protocol.grpc.protobuf import message_class
from tests.unit.protocol.grpc.reference import TYPED

TEXTS = ("", "x", "y", "größe", "a-name-that-is-longer", "\0")
PARAMETERS = (
    *("priority", "timeout", "binary_data_output", "binary_data", "binary_data_size"),
    *("anything", "more", "", "classification", "shared_memory_region"),
)
EDGES = (0, 1, 127, 128, 255, 2**14 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
BITS = {"int_contents": (31, True), "uint_contents": (32, False), "int64_contents": (63, True)}
BITS |= {"uint64_contents": (64, False)}


class RequestMaker:
    """Makes requests that `random` chooses."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def request(self) -> Any:
        chosen = self._random
        message = message_class("ModelInferRequest")(
            model_name=chosen.choice(TEXTS), model_version=chosen.choice(("", "1")), id=chosen.choice(TEXTS)
        )
        raw = chosen.random() < 0.5
        self._add_parameters(message, 0.3)
        for _ in range(chosen.choice((0, 1, 1, 2, 3))):
            self._add_input(message, raw)
        for _ in range(chosen.choice((0, 0, 1, 2))):
            self._add_parameters(message.outputs.add(name=chosen.choice(TEXTS)), 0.2)
        if chosen.random() < 0.05:
            message.raw_input_contents.append(b"")
        return message

    def _add_parameters(self, owner: Any, share: float) -> None:
        while self._random.random() < share:
            self._set(owner.parameters[self._random.choice(PARAMETERS)])

    def _set(self, parameter: Any) -> None:
        match self._random.choice(("bool", "int", "uint", "int", "text", "double", "nothing")):
            case "bool":
                parameter.bool_param = self._random.random() < 0.5
            case "int":
                parameter.int64_param = self._random.choice((0, 3, 9, 10, 1_000_000, -1, 2**63 - 1))
            case "uint":
                parameter.uint64_param = self._random.choice((0, 3, 2**63, 2**64 - 1))
            case "text":
                parameter.string_param = self._random.choice(TEXTS)
            case "double":
                parameter.double_param = self._random.choice((0.0, 1.0, -1e300))

    def _add_input(self, message: Any, raw: bool) -> None:
        chosen = self._random
        datatype = chosen.choice([*BY_OIP, "BYTES"] if raw else [*TYPED])
        if chosen.random() < 0.05:
            datatype = chosen.choice(("", "fp32", "BF16"))
        shape = [chosen.choice((0, 1, 1, 2, 3, 3)) for _ in range(chosen.choice((0, 1, 2, 2, 3)))]
        count = math.prod(shape)
        if chosen.random() < 0.05:
            shape.append(chosen.choice((-1, 2**40, -(2**63))))
        tensor = message.inputs.add(name=chosen.choice(TEXTS), datatype=datatype, shape=shape)
        self._add_parameters(tensor, 0.1)
        count += chosen.random() < 0.03
        if raw != (chosen.random() < 0.03):
            message.raw_input_contents.append(self._octets(datatype, count))
        elif count or chosen.random() < 0.5:
            self._fill(tensor.contents, TYPED.get(datatype, "bytes_contents"), count)

    def _octets(self, datatype: str, count: int) -> bytes:
        if datatype == "BYTES":
            return b"".join(self._string() for _ in range(count))
        size = BY_OIP[datatype].itemsize if datatype in BY_OIP else 1
        return self._random.randbytes(count * size) if datatype != "BOOL" else bytes([1] * count)

    def _string(self) -> bytes:
        text = self._random.choice(TEXTS).encode()
        return (len(text) + (self._random.random() < 0.02)).to_bytes(4, "little") + text

    def _fill(self, contents: Any, field: str, count: int) -> None:
        contents.SetInParent()
        values = [self._number(field) for _ in range(count)]
        getattr(contents, field).extend(values)

    def _number(self, field: str) -> Any:
        if field == "bytes_contents":
            return b"bytes"
        if field == "bool_contents":
            return self._random.random() < 0.5
        if field in BITS:
            bits, negative = BITS[field]
            number = self._random.choice([edge for edge in EDGES if edge < 2**bits])
            return -number if negative and self._random.random() < 0.3 else number
        real = self._random.choice((0.0, -1.5, 3.0e38, float("inf"), float("nan"), self._random.gauss(0, 1)))
        return float(np.float32(real))
