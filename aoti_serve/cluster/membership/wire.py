"""Reports, targets and routes as bytes: JSON, so that nothing another process sends is unpickled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from aoti_serve.address import Address
from aoti_serve.errors import LinkBroken
from aoti_serve.link.messages import failure_bytes, failure_of
from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.swap.target import Exposure, Receipt, Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version


def report_bytes(report: Report) -> bytes:
    """An error becomes its name and facts, see `failure_bytes`."""
    return _dumps(report)


def report_of(message: memoryview) -> Report:
    """Raises LinkBroken for any other message."""
    try:
        found = orjson.loads(message)
        found["address"] = found["address"] and _address_of(found["address"])
        found["followed"] = TargetRevision(*found["followed"])
        found["error"] = found["error"] and failure_of(memoryview(found["error"].encode()))
        found["receipt"] = found["receipt"] and Receipt.model_validate(found["receipt"])
        return Report(**found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LinkBroken(detail=f"a report that says {error!r}") from error


def target_bytes(target: Target) -> bytes:
    return _dumps(target)


def target_of(message: memoryview) -> Target:
    """Raises LinkBroken for any other message."""
    try:
        found = orjson.loads(message)
        staging = found["staging"]
        found["committed"] = Committed.model_validate(found["committed"])
        found["staging"] = staging and _staging_of(**staging)
        return Target(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise LinkBroken(detail=f"a target that says {error!r}") from error


def _staging_of(swap: str, version: Any, exposure: Any) -> Staging:
    return Staging(swap, Version.model_validate(version), exposure and Exposure.model_validate(exposure))


def reroute_bytes(whole: bool, added: Iterable[Address], removed: Iterable[str] = ()) -> bytes:
    """Replicas that have come and gone; with `whole`, those that are `added` are all there are."""
    return _dumps({"whole": whole, "added": list(added), "removed": list(removed)})


def reroute_of(message: memoryview) -> tuple[bool, tuple[Address, ...], tuple[str, ...]]:
    """The arguments of `reroute_bytes`. Raises LinkBroken for any other message."""
    try:
        found = orjson.loads(message)
        return found["whole"], tuple(map(_address_of, found["added"])), tuple(found["removed"])
    except (ValueError, TypeError, KeyError) as error:
        raise LinkBroken(detail=f"a route that says {error!r}") from error


def _dumps(message: object) -> bytes:
    return orjson.dumps(message, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _plain(value: object) -> object:
    match value:
        case Frozen() | Report() | Target() | Staging() | Address():
            return value.__dict__
        case BaseException():
            return failure_bytes(value).decode()
        case bytes():
            return value.hex()
        case tuple():  # a NamedTuple
            return list(value)
    raise TypeError(f"a {type(value).__name__} in a message")


def _address_of(found: dict[str, Any]) -> Address:
    tcp = found["tcp"]
    return Address(**found | {"key": bytes.fromhex(found["key"]), "tcp": tcp and (str(tcp[0]), int(tcp[1]))})
