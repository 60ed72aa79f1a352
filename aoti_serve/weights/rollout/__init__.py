"""Rollouts: a staged version is tried on a part of the requests before it is committed, and watched afterwards.

There is no Ray here, no socket and no event loop: totals that gateways have counted and a clock go in, decisions come
out. `plan` is what is asked, in the words of `quantities`; `counts` counts in a gateway, with `compare`, and gives
`figures` (of `latency` and `outputs`); `judging` finds what is beyond its limit; `rollout` is the
machine over `state`, and `decisions` come out of it. docs/concepts/rollouts.md explains the rules.

    trying    ── a step has passed     ──> trying, the next step
    trying    ── the last has passed   ──> promoting
    trying    ── a rule is breached    ──> ended: aborted
    trying    ── it stays undecided    ──> ended: undecided
    promoting ── the commit is done    ──> watching
    promoting ── it was refused        ──> ended: aborted
    watching  ── a rule is breached    ──> ended: rolled back
    watching  ── the time is over      ──> ended: promoted
"""
