"""What is said of a server between two looks at it."""

from __future__ import annotations

from typing import Any

from ray.core.generated import common_pb2
from ray.serve.schema import ApplicationStatus

from aoti_serve.launcher.monitor import changes_between, starved_among, view_of

WAITS = (
    "Deployment 'digits-replica' has 1 replicas that have taken more than 30s to be scheduled. \n"
    "Use `ray status` for more details."
)


def details(
    running: str, target: int = 2, status: str = "RUNNING", message: str = "", starting: str = "", says: str = ""
) -> Any:
    """Serve's details of one application with one deployment; replicas have names of one letter."""
    replicas = [{"replica_id": name, "state": "RUNNING"} for name in running]
    replicas += [{"replica_id": name, "state": "STARTING"} for name in starting]
    deployment = {"target_num_replicas": target, "replicas": replicas, "message": says}
    application = {
        "status": ApplicationStatus(status),
        "message": message,
        "deployments": {"digits-replica": deployment},
    }
    return {"applications": {"default": application, "other": application}}


def said(before: Any, after: Any) -> list[str]:
    return changes_between(view_of(before, ["default"]), view_of(after, ["default"]))


def test_nothing_is_said_where_nothing_has_happened() -> None:
    assert said(details("ab"), details("ab")) == []


def test_one_that_is_gone_is_named_and_so_is_its_return() -> None:
    assert said(details("ab"), details("b", starting="c")) == ["digits-replica: a is gone; 1 of 2 run"]
    assert said(details("b"), details("bc")) == ["digits-replica: 2 of 2 run again"]


def test_one_that_was_followed_at_once_is_named_too() -> None:
    assert said(details("ab"), details("bc")) == [
        "digits-replica: a is gone; 2 of 2 run",
        "digits-replica: 2 of 2 run again",
    ]


def told(*views: Any) -> list[str]:
    """What is said of these views, one after the other."""
    texts, before = [], view_of(views[0], ["default"])
    for view in views[1:]:
        now = view_of(view, ["default"]).after(before)
        texts += changes_between(before, now)
        before = now
    return texts


def test_scaling_is_told_when_it_is_done_and_none_is_called_gone() -> None:
    one, rising, two = details("a", target=1), details("a", target=2, starting="b"), details("ab")
    assert told(one, one, rising, rising, two, two) == ["digits-replica: 2 run (1 before)"]
    assert told(two, one) == ["digits-replica: 1 run (2 before)"]
    assert told(two, details("ab", target=1), one, one) == ["digits-replica: 1 run (2 before)"]
    assert told(one, rising, one) == []


def test_one_that_is_gone_while_more_are_coming_is_named() -> None:
    one, rising = details("a", target=1), details("a", target=2, starting="b")
    assert told(one, rising, details("", target=2, starting="bc"), details("bc")) == [
        "digits-replica: a is gone; 0 of 2 run",
        "digits-replica: 2 run (1 before)",
    ]


def test_a_successor_that_was_started_first_is_no_news_when_it_has_taken_over() -> None:
    assert told(details("a", target=1), details("ab", target=1), details("b", target=1)) == []


def test_what_serve_says_of_a_deployment_is_told_once_each_time_it_changes() -> None:
    well, waits = details("a", target=1), details("a", target=1, starting="b", says=WAITS)
    said = (
        "digits-replica: Deployment 'digits-replica' has 1 replicas that have taken more than 30s to be scheduled. "
        "Use `ray status` for more details."
    )
    assert told(well, waits, waits, well, waits) == [said, said]


def test_what_serve_has_said_while_it_started_is_not_told_again() -> None:
    waits = details("a", says=WAITS)
    assert told(waits, waits) == []


def test_want_of_memory_is_told_once_in_rays_words() -> None:
    cause = common_pb2.ActorDeathCause  # type: ignore[attr-defined]  # protobuf makes it at run time
    low = cause(oom_context={"error_message": "2 worker(s) were killed: low on memory\nMore of it"})
    killed = cause(actor_died_error_context={"error_message": "killed"})
    names = {"SERVE_REPLICA::default#digits-replica#a": low, "SERVE_REPLICA::default#gateway#b": low, "other": killed}
    starved = starved_among([{"Name": name, "DeathCause": death} for name, death in names.items()])
    assert set(starved) == {"a", "b"}
    before, ill = view_of(details("ab"), ["default"]), view_of(details(""), ["default"])
    said = changes_between(before, ill._replace(starved=starved))
    assert said == [
        "digits-replica: a, b are gone; 0 of 2 run",
        "Ray has ended processes: 2 worker(s) were killed: low on memory",
    ]
    assert changes_between(ill._replace(starved=starved), ill._replace(starved=starved)) == []


def test_an_applications_state_is_told_with_its_reason_and_when_it_is_well_again() -> None:
    ill = details("ab", status="UNHEALTHY", message="Traceback\n  of something\nit is ill\n")
    assert said(details("ab"), ill) == ["application 'default' is UNHEALTHY: it is ill"]
    assert said(ill, details("ab")) == ["application 'default' runs again"]
