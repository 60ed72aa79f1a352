"""Which stores of a configuration another server leads now: it leaves a sign of life, and then another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from aoti_serve.cluster.coordinator.succession.standby import BEAT_EVERY_S, LOOK_EVERY_S
from aoti_serve.config import ModelConfig
from aoti_serve.errors import AotiServeError
from aoti_serve.weights.store.catalog import Catalog
from aoti_serve.weights.store.term import HOME_DIGITS

NEWS_S = BEAT_EVERY_S + 2 * LOOK_EVERY_S  # by then a coordinator that lives has left another sign
LISTEN_POLL_S = 0.2


def led_now(
    models: Iterable[ModelConfig],
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], object] = time.sleep,
) -> dict[str, str]:
    """The models whose stores are led by a coordinator that lives, and the `home` of each (see `Term`).

    A server that has just ended leaves a sign, too. So where the last one is recent this waits for the next, `NEWS_S`
    after the last at most. Clocks of machines that share a store are taken to agree within seconds.
    """
    began = clock()
    catalogs = [Catalog(model.store_root, model.name) for model in models]
    first = {catalog.model: (catalog, beat) for catalog in catalogs if (beat := _beat(catalog))}
    led: dict[str, str] = {}
    while waiting := {
        name: each for name, each in first.items() if name not in led and clock() < min(_when(each[1]), began) + NEWS_S
    }:
        for name, (catalog, beat) in waiting.items():
            if (newer := _beat(catalog)) not in ("", beat):
                led[name] = _home(newer)
        pause(LISTEN_POLL_S)
    return led


def leader_warning(model: str) -> str:
    """What follows from it, for the one that starts a second server."""
    return (
        f"model '{model}': another server leads its store now. If both run, the newer one makes the changes; the older "
        "one answers with what that one commits, and takes the store back a minute after its end. For a server apart, "
        "set another `store`"
    )


def _beat(catalog: Catalog) -> str:
    with suppress(AotiServeError, UnicodeDecodeError):  # a store that cannot be read is told of elsewhere
        return (catalog.last_beat() or b"").decode()
    return ""


def _when(beat: str) -> float:
    with suppress(ValueError):
        return float(beat.split(" ", maxsplit=1)[0])
    return 0.0


def _home(beat: str) -> str:
    return beat.partition(" ")[2][:HOME_DIGITS]
