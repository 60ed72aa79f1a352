"""Faults on a cluster of four Ray nodes under traffic: the short form of scripts/chaos. Every answer is checked.

After each fault all replicas must serve one version, whole, which is the committed one; and swaps must work. One fault
of each kind runs always. The others, which wait for many processes to start, are `long`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from chaoslab import deployments, endurance, freezes, kills, storage
from chaoslab.campaign import Fault, Finding, found, struck_at
from chaoslab.lab import Lab, compiled, laboratory
from chaoslab.moments import COMMITTING, STAGING


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three replicas, two gateways, two clients that never stop asking."""
    with compiled(megabytes=4) as package, laboratory(package, clients=2) as running:
        yield running


def survived(lab: Lab, cause: Callable[[Lab], object]) -> Finding:
    """No request failed; no answer was mixed, stale, or of a version that was never committed."""
    finding = found(lab, Fault("", "", cause))
    assert not finding.missed
    found_out = [finding.problem, *map(str, finding.counts.evidence.items()), *finding.counts.cuts, *finding.notes]
    assert not finding.lost, "\n".join(found_out)
    return finding


@pytest.mark.parametrize("count", [20, pytest.param(50, marks=pytest.mark.long)])
def test_swaps_back_to_back_lose_nothing_and_mix_nothing(lab: Lab, count: int) -> None:
    finding = survived(lab, partial(endurance.swaps, count=count))
    assert finding.outcomes == {"committed": count + 1}
    assert len(finding.counts.versions) > count * 3 // 5


def test_weights_are_not_committed_if_a_replica_dies_in_stage(lab: Lab) -> None:
    finding = survived(lab, partial(kills.replica_in_stage, staged=False))
    assert finding.outcomes == {"came to nothing": 1, "committed": 1}


def test_a_replica_that_dies_in_commit_does_not_keep_the_swap_from_ending(lab: Lab) -> None:
    assert survived(lab, kills.replica_in_commit).outcomes == {"committed": 2}


def test_a_coordinator_that_dies_in_stage_leaves_the_old_version(lab: Lab) -> None:
    finding = survived(lab, partial(kills.process_in, kind="coordinator", phase=STAGING))
    assert finding.outcomes == {"came to nothing": 1, "committed": 1}


def test_what_a_coordinator_has_committed_is_completed_by_its_successor(lab: Lab) -> None:
    finding = survived(lab, partial(kills.process_in, kind="coordinator", phase=COMMITTING))
    assert finding.outcomes == {"committed, reply lost": 1, "committed": 1}


def test_a_swap_does_not_need_serves_controller(lab: Lab) -> None:
    finding = survived(lab, partial(kills.process_in, kind="controller", phase=COMMITTING))
    assert finding.outcomes == {"committed": 2}


def test_a_gateway_that_dies_costs_only_the_connections_it_held(lab: Lab) -> None:
    survived(lab, kills.gateway)


@pytest.mark.long
def test_a_node_that_dies_with_the_coordinator_on_it_costs_nothing_else(lab: Lab) -> None:
    survived(lab, kills.node)


def test_a_replica_that_is_stopped_in_commit_never_answers_with_old_weights(lab: Lab) -> None:
    assert survived(lab, freezes.replica_in_commit).outcomes == {"committed": 2}


@pytest.mark.parametrize(
    "cause", [storage.bad_files, storage.full_disk, storage.full_disk_at_the_commit], ids=lambda cause: cause.__name__
)
def test_what_cannot_be_read_or_written_changes_nothing(lab: Lab, cause: Callable[[Lab], object]) -> None:
    assert survived(lab, cause).outcomes["committed"] == 1


@pytest.mark.long
def test_gateways_that_go_answer_what_they_have_and_cut_nobody(lab: Lab) -> None:
    survived(lab, partial(deployments.scale_gateways, counts=(1, 2)))


@pytest.mark.long
def test_a_configuration_that_replaces_every_process_cuts_nobody(lab: Lab) -> None:
    survived(lab, deployments.redeploy)


def test_a_replica_that_comes_while_weights_change_is_current(lab: Lab) -> None:
    survived(lab, partial(deployments.scale, counts=(4,)))


@pytest.mark.parametrize("stage", ["canary", "promotion", "withdrawal"])
def test_a_candidate_does_not_need_its_coordinator(lab: Lab, stage: str) -> None:
    survived(lab, struck_at(stage, "coordinator"))


def test_a_rollback_of_a_rollout_is_made_once_whoever_makes_it(lab: Lab) -> None:
    survived(lab, struck_at("rollout-rollback-commit", "coordinator"))
