"""Reports, targets and routes as bytes: JSON, so that nothing another process sends is unpickled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from aoti_serve.address import Address
from aoti_serve.errors import LinkBroken
from aoti_serve.link.messages import failure_bytes, failure_of
from aoti_serve.weights.swap.target import Receipt, Report, Staging, Target, TargetRevision
from aoti_serve.weights.version import Committed, Version


class RerouteMessage(NamedTuple):
    """Which replicas have come and gone; `whole`: these are all there are."""

    whole: bool
    added: tuple[Address, ...]
    removed: tuple[str, ...] = ()


def report_bytes(report: Report) -> bytes:
    """An error becomes its name and facts, see `failure_bytes`."""
    return orjson.dumps(
        {
            "member": report.member,
            "node": report.node,
            "address": report.address and _address(report.address),
            "turn": report.turn,
            "followed": list(report.followed),
            "runners": report.runners,
            "joining": report.joining,
            "leaving": report.leaving,
            "epoch": report.epoch,
            "settled": report.settled,
            "staged": report.staged,
            "failed": report.failed,
            "error": failure_bytes(report.error).decode() if report.error else None,
            "receipt": report.receipt and report.receipt.__dict__,
        }
    )


def report_of(message: memoryview) -> Report:
    """Raises LinkBroken for what is no report."""
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
    staging = target.staging
    return orjson.dumps(
        {
            "term": target.term,
            "revision": target.revision,
            "committed": target.committed.model_dump(),
            "settled": target.settled,
            "staging": staging and {"swap": staging.swap, "version": staging.version.model_dump()},
            "spread": target.spread,
        }
    )


def target_of(message: memoryview) -> Target:
    """Raises LinkBroken for what is no target."""
    try:
        found = orjson.loads(message)
        staging = found["staging"]
        found["committed"] = Committed.model_validate(found["committed"])
        found["staging"] = staging and Staging(staging["swap"], Version.model_validate(staging["version"]))
        return Target(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise LinkBroken(detail=f"a target that says {error!r}") from error


def reroute_bytes(whole: bool, added: Iterable[Address], removed: Iterable[str] = ()) -> bytes:
    return orjson.dumps({"whole": whole, "added": [_address(one) for one in added], "removed": list(removed)})


def reroute_of(message: memoryview) -> RerouteMessage:
    """Raises LinkBroken for what is no route."""
    try:
        found = orjson.loads(message)
        return RerouteMessage(found["whole"], tuple(map(_address_of, found["added"])), tuple(found["removed"]))
    except (ValueError, TypeError, KeyError) as error:
        raise LinkBroken(detail=f"a route that says {error!r}") from error


def _address(address: Address) -> dict[str, Any]:
    return address.__dict__ | {"key": address.key.hex()}


def _address_of(found: dict[str, Any]) -> Address:
    tcp = found["tcp"]
    return Address(**found | {"key": bytes.fromhex(found["key"]), "tcp": tcp and (str(tcp[0]), int(tcp[1]))})
