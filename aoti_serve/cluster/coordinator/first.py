"""What a coordinator finds in its store when it starts, or puts there first."""

from __future__ import annotations

from aoti_serve.config import NO_WEIGHTS, ModelConfig
from aoti_serve.errors import InvalidConfig, InvalidWeights, StoreFailed
from aoti_serve.signature.signature import Signature
from aoti_serve.weights.intake import Intake
from aoti_serve.weights.store.store import Store
from aoti_serve.weights.swap_options import SwapOptions
from aoti_serve.weights.version import BUILT_IN, Committed, Version


def first_committed(intake: Intake, model: ModelConfig, signature: Signature, carries_weights: bool) -> Committed:
    """The last commit; in a new store, the configuration's weights, or the package's own."""
    store = intake.store
    committed = store.committed()
    if committed is not None:
        _check_committed(store, committed.version, signature)
        return committed
    if model.weights is None and not carries_weights:
        raise InvalidConfig(detail=f"model '{model.name}': {NO_WEIGHTS}")
    if model.weights is None:
        return Committed(epoch=0, version=BUILT_IN)
    version = intake.of_local(model.weights, SwapOptions(label=model.weights.stem))
    return store.commit(version, 1, BUILT_IN if carries_weights else None)


def _check_committed(store: Store, version: Version, signature: Signature) -> None:
    """A package that was compiled anew may take other tensors than the ones that were committed before."""
    if version.number == BUILT_IN.number:
        return
    try:
        signature.check_weights(store.index(version))
    except InvalidWeights as error:
        detail = f"committed version {version.number} does not fit the package: {error}; set another `store`, "
        detail += "or let one that fits answer: `aoti-serve store set-current`"
        raise StoreFailed(path=store.root, detail=detail) from error
