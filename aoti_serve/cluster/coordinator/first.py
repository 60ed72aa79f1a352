"""What a coordinator finds in its store when it starts, or puts there first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aoti_serve.config import NO_WEIGHTS, ModelConfig, WeightsLimits
from aoti_serve.errors import InvalidConfig, InvalidWeights, NotFinite, PickledWeights
from aoti_serve.model.foreign.built_in import write_built_in
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.files.checkpoint import checkpoint_label
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Committed, Version


def intake_of(
    store: Store, model: ModelConfig, signature: Signature, limits: WeightsLimits, carries_weights: bool
) -> Intake:
    """What lets weights into the store."""
    built_in = partial(write_built_in, model) if carries_weights else None
    assets = tuple(model.processor.assets.values()) if model.processor else ()
    return Intake(store, model.name, signature, limits, model.weights_roots, model.checkpoints, built_in, assets)


def first_committed(intake: Intake, model: ModelConfig, signature: Signature, carries_weights: bool) -> Committed:
    """The last commit; in a new store, the configuration's weights, or the package's own."""
    store = intake.store
    committed = store.committed()
    if committed is not None:
        check_committed(store, committed.version, signature)
        return committed
    if model.weights is None and not carries_weights:
        raise InvalidConfig(detail=f"model '{model.name}': {NO_WEIGHTS}")
    if model.weights is None:
        return Committed(epoch=0, version=BUILT_IN)
    try:
        version = intake.of_local(model.weights, SwapOptions(label=checkpoint_label(model.weights)))
    except InvalidWeights as error:
        raise InvalidConfig(detail=f"model '{model.name}': {unfit_first(model.weights, error)}") from error
    return store.commit(version, 1, BUILT_IN if carries_weights else None)


def unfit_first(file: Path, error: InvalidWeights) -> str:
    """The reason why a file cannot be the first weights: it names the file, and no option that only a swap has."""
    if isinstance(error, PickledWeights):
        return str(error)
    reason = NotFinite(**error.facts | {"way_out": ""}) if isinstance(error, NotFinite) else error
    return f"weights {file}: {reason}"


def check_committed(store: Catalog, version: Version, signature: Signature) -> None:
    """A package that was compiled anew may take other tensors than the ones that were committed before."""
    if version.number == BUILT_IN.number:
        return
    try:
        signature.check_weights(store.index(version))
    except InvalidWeights as error:
        unfit = f"weights store {store.root}: committed version {version.number} does not fit the package: {error}"
        out = "set another `store`, or let one that fits answer: `aoti-serve store set-current`"
        raise InvalidConfig(detail=f"{unfit}; {out}") from error
