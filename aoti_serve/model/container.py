"""A loaded package that answers, and whose weights can be swapped while it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoti_serve.errors import InvalidConfig, InvalidInputData, WeightsMissing
from aoti_serve.model.acceptance import Run, check_golden, check_run
from aoti_serve.model.arguments import ModelInputs, checked_inputs
from aoti_serve.model.gate import Gate
from aoti_serve.model.loading import IntraOpThreads, choose_device, load, open_device, warn_of_fixed_threads
from aoti_serve.model.package import Package
from aoti_serve.model.preparation.preparations import prepared
from aoti_serve.model.resident.second_runtime import SecondRuntime
from aoti_serve.model.resident.versions import ResidentVersions
from aoti_serve.model.run import DeviceRun
from aoti_serve.model.variants import Variants
from aoti_serve.model.weights_in import WeightsStream, accept_tensors
from aoti_serve.signature.golden.request import GoldenRequest
from aoti_serve.signature.tensors import Span


class Container:
    """One package on one device: `num_runners` runners over an active and an inactive constant buffer.

    Methods may be called from any thread of one process. `run` releases the GIL and waits for a free runner; `stage`
    works on the inactive buffer while runs go on; `commit` and `rollback` pause runs for as long as the longest one in
    flight. `version` is the one that answers, `previous` the one that is resident behind it, `staged` the one that
    waits for its commit; None where there is none.

    `device` is "cpu", "cuda" or "cuda:<index>", by default what the package was compiled for; `num_threads` the
    intra-op threads of each run, by default those of the calling thread. With `run_single_threaded` the runtime takes
    no locks of its own (for CUDA graphs), and there is one runner.
    """

    def __init__(
        self,
        package: Package | str | os.PathLike[str],
        *,
        num_runners: int = 1,
        device: str | None = None,
        num_threads: int | None = None,
        run_single_threaded: bool = False,
    ) -> None:
        if num_runners < 1 or (num_threads is not None and num_threads < 1):
            raise InvalidConfig(detail=f"num_runners {num_runners} and num_threads {num_threads} must be 1 or more")
        self.package = package if isinstance(package, Package) else Package.open(package)
        self.signature = self.package.signature
        self.num_runners = 1 if run_single_threaded else num_runners
        self.num_threads = num_threads
        self.run_single_threaded = run_single_threaded
        self._gate = Gate(self.num_runners)
        self._staging = threading.RLock()
        self.device = choose_device(self.package, device)
        contents = prepared(self.signature, self.package.recipes)
        run = DeviceRun(open_device(self.device, 2 * self.num_runners), self.signature, num_threads)
        second = SecondRuntime(self._load, run, self.num_runners)
        self._versions = ResidentVersions(self._load, contents, run, self._gate, second)
        self._baseline = self.package.baseline()
        warn_of_fixed_threads(self.package, self.num_runners, num_threads)
        if self.package.carries_weights:
            self._take_over_built_in()

    @property
    def version(self) -> int | None:
        """The version that answers."""
        return self._versions.version

    @property
    def previous(self) -> int | None:
        """The version that `rollback` goes back to."""
        return self._versions.previous

    @property
    def staged(self) -> int | None:
        """The version that `commit` makes the active one."""
        return self._versions.staged

    @property
    def closed(self) -> bool:
        return self._versions.closed

    @property
    def nbytes(self) -> int:
        """The bytes that its weights occupy now: those that answer, and those that are staged or kept."""
        return self._versions.nbytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as the module itself: nested arguments in, nested result out."""
        takes, gives = self.signature.takes, self.signature.gives
        if takes is None or gives is None:
            raise InvalidInputData(name="arguments", detail="the package's call spec is unknown; call run() by name")
        return gives.nested(self.run(takes.flattened(args, kwargs)))

    def run(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        """Return outputs by name, for inputs by name or in the signature's order. See `infer`."""
        return self.infer(inputs)[1]

    def boxed_run(self, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """As `run`, but take the tensors out of the list, so that the run can free their memory early."""
        ordered = checked_inputs(inputs, self.signature)
        inputs.clear()
        return self._versions.infer(ordered)[1]

    def infer(self, inputs: ModelInputs, version: int | None = None) -> tuple[int, dict[str, torch.Tensor]]:
        """Return the version that computed, and its outputs.

        `version` asks for a resident one: the active version, the staged one after `try_staged`, or the previous one
        after `open_previous`. Raises an InvalidInput that names the input, WeightsMissing, VersionNotResident, or
        ContainerClosed; no other answer is changed.
        """
        return self._versions.infer(checked_inputs(inputs, self.signature), version)

    def stage(
        self,
        weights: Mapping[str, torch.Tensor],
        version: int | None = None,
        *,
        partial: bool = False,
        strict: bool = True,
    ) -> None:
        """Check `weights` in full, then copy or prepare them into the inactive buffer, and fold there.

        `version` is the number that answers will name after `commit`, by default one that was never used. With
        `partial` they are changes to the active version; without `strict` a value that differs from a compiled-in one
        is a warning.
        Raises an InvalidWeights that names the tensor, and then nothing has changed. The previous version, or an
        earlier stage, is gone as soon as a byte moves.
        """
        with self._step():
            if partial and self.version is None:
                raise WeightsMissing()
            self._versions.check_free(version)
            given = accept_tensors(weights, self.signature, partial=partial, strict=strict)
            rest = {spec.name for spec in self.signature.constants} - given.keys()
            with self._all_cores(), self._versions.staging(version) as buffer:
                buffer.fill(given)
                if partial:
                    buffer.keep(self._versions.active, rest)
                else:
                    buffer.fill({name: self._baseline[name] for name in rest})

    def stage_bytes(
        self,
        index: Mapping[str, Span],
        pieces: Iterable[NDArray[np.uint8]],
        version: int | None = None,
        *,
        strict: bool = True,
    ) -> None:
        """As `stage`, from the bytes of a safetensors file as they arrive: they are never all in memory.

        `index` says where in the file its tensors lie, `pieces` are all of its bytes in order, in arrays of any size;
        none is kept when the next one is taken.
        Raises an InvalidWeights that names the tensor if the index does not fit, and then nothing has changed. Raises
        the errors of `pieces`, UnreadableWeights if they are too few or too many, and an InvalidWeights if a value does
        not fit; then the inactive buffer is empty, and the active one as it was.
        """
        with self._step():
            self._versions.check_free(version)
            stream = WeightsStream(index, self.signature)
            with self._all_cores(), self._versions.staging(version) as buffer:
                stream.fill(buffer, pieces, self._baseline)
                stream.check(strict=strict)

    def try_staged(self, golden: Iterable[GoldenRequest] = (), *, skip_acceptance: bool = False) -> None:
        """Run the staged version while the active one goes on answering: on made-up inputs, then on the golden requests
        of the package and on these, unless acceptance is skipped.

        From then on `infer` answers with it where it is asked for. Raises UnfitTensor or WeightsDoNotRun if these
        weights cannot answer, AnswersNotFinite or GoldenFailed if they answer wrongly, and the errors of loading a
        second runtime; nothing is staged then any more.
        """
        with self._step(), self._versions.trial() as staged:
            active = None if self.version is None else self._run_of(self.version)
            check_run(self.signature, self._run_of(staged), active, any_answer=skip_acceptance)
            if not skip_acceptance:
                check_golden(chain(self.package.golden(), golden), self.signature, self._run_of(staged))

    def open_previous(self) -> None:
        """Let `infer` answer with the previous version, too, if there is one and a staged version was ever tried."""
        with self._step():
            self._versions.open_previous()

    def commit(self) -> None:
        """Make the staged version the active one, after a trial if it had none and the package has golden requests; the
        one before stays resident for `rollback`.
        """
        with self._step():
            if self.package.golden_count and not self._versions.accepted:
                self.try_staged()
            self._versions.commit()

    def rollback(self) -> None:
        """Make the resident previous version the active one again; moves no data."""
        with self._step():
            self._versions.rollback(self.package.path.name)

    def abort(self) -> None:
        """Free the staged version, if there is one."""
        with self._step():
            if self.staged is not None:
                self._versions.release()

    def release(self) -> None:
        """Give back the memory of the inactive buffer: of the previous version, or of the staged one."""
        with self._step():
            self._versions.release()

    def close(self) -> None:
        """Let runs in flight end, then give back all memory; later calls raise ContainerClosed. May be repeated."""
        with self._staging:
            self._versions.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Hold the weights for one step, of one thread at a time."""
        with self._staging:
            self._versions.check_open()
            yield

    def _run_of(self, version: int) -> Run:
        return lambda inputs: self._versions.infer(inputs, version)[1]

    def _all_cores(self) -> IntraOpThreads:
        return IntraOpThreads(self.num_threads and self.num_threads * self.num_runners)

    def _load(self) -> Variants:
        return load(self.package, self.num_runners, self.device, single_threaded=self.run_single_threaded)

    def _take_over_built_in(self) -> None:
        built_in = self._versions.take_over_built_in()
        carried = [spec.name for spec in self.signature.constants if spec.carried]
        self._baseline = {name: built_in[name].clone() for name in carried} | self._baseline
