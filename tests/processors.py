"""Processors that tests serve: good ones, and ones that break on a word."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pictures import Pictures

from aoti_serve.errors import InvalidInputData

Request = Mapping[str, NDArray[Any]]


def break_on(word: bytes) -> None:
    """What the words do: end the process, hang, hang with the GIL held, raise."""
    match word:
        case b"die":
            os._exit(7)
        case b"hang":
            time.sleep(3600)
        case b"hold":
            sum(range(10**12))  # in C, without a look at whether others want the GIL
        case b"raise":
            raise KeyError("raised")
        case b"refuse":
            raise InvalidInputData(name="text", detail="not this word")


class Words:
    """The length of each word, and back to as many letters."""

    inputs = ({"name": "text", "dtype": "BYTES", "shape": ["batch"]},)
    outputs = ({"name": "letters", "dtype": "BYTES", "shape": ["batch"]},)

    def __init__(self, letter: str = "x") -> None:
        self._letter = letter
        self._calls = 0

    def before(self, requests: Sequence[Request]) -> list[Any]:
        for request in requests:
            for word in request["text"]:
                break_on(word)
        return [{"n": np.array([len(word.decode()) for word in request["text"]])} for request in requests]

    def after(self, answers: Sequence[Request]) -> list[Any]:
        return [{"letters": [self._letter * int(n) for n in answer["n"]]} for answer in answers]


class WrongAnswers(Words):
    """Its answers have a dimension too many."""

    def after(self, answers: Sequence[Request]) -> list[Any]:
        return [{"letters": [["x"] * len(answer["n"])]} for answer in answers]


class FragilePictures(Pictures):
    """Breaks on a word in place of a picture."""

    def before(self, requests: Sequence[Request]) -> list[Any]:
        for request in requests:
            for file in request["png"]:
                break_on(file)
        return super().before(requests)


class Letters:
    """The letters of words that are equally long, as numbers. The mask of the model is left to the server."""

    inputs = Words.inputs

    def before(self, requests: Sequence[Request]) -> list[Any]:
        return [{"ids": np.array([list(word) for word in request["text"]])} for request in requests]


class Marked:
    """Pictures of digits, brightened as a file says, and a mark from the same file on every answer."""

    inputs = ({"name": "image", "dtype": "FP32", "shape": ["batch", 1, 8, 8]},)
    outputs = (
        {"name": "logits", "dtype": "FP32", "shape": ["batch", 10]},
        {"name": "mark", "dtype": "BYTES", "shape": ["batch"]},
    )

    def __init__(self, marks: str) -> None:
        found = json.loads(Path(marks).read_text())
        break_on(found.get("word", "").encode())
        self._scale, self._mark = np.float32(found["scale"]), found["mark"]

    def before(self, requests: Sequence[Request]) -> list[Any]:
        return [{"image": request["image"] * self._scale} for request in requests]

    def after(self, answers: Sequence[Request]) -> list[Any]:
        return [{"logits": answer["logits"], "mark": [self._mark] * len(answer["logits"])} for answer in answers]
