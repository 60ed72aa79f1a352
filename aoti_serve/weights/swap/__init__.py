"""Swaps: all members of a model's cluster hold one version of the weights, or all hold the one before.

Members are the model's replicas and gateways. One coordinator per model publishes a target; every member compares it
with what it holds, does what is missing, and reports. No Ray here, no sockets, no files: events and a clock go in,
orders come out (`coordination`), so that tests drive these very classes in every order and in simulated time.

The rules
---------
1. A version is committed when the store has written it (`Commit`, then `stored`). Before that point a swap may only
   abort, after it only go on.
2. It is written when every live member has staged it, and at least one of them is a replica. A replica that ends while
   it stages fails the swap, unless it had said that it leaves.
3. Members that do not follow in time are expelled. The swap returns when every other member holds the new version, no
   gateway lets out anything older, and the ends of those that were expelled are certain. Else it is UNSETTLED.
4. A coordinator that was followed by a newer one commits nothing, expels none, and answers no question. The store
   counts coordinators by terms; members listen to the newest term that they know.
5. A member becomes ready after it has reported, no longer as joining, that it holds what a coordinator has just
   confirmed. From that report on every swap waits for it.
6. A gateway lets out no answer of an epoch before `settled` (`fence`), and none at all after it was stopped, until it
   has asked what stands.

A member is away, and may have ended, when its connection ends; it has ended when the cluster's books say so. What a
partition does: the cluster takes those on the other side for dead, the kill does not reach them, and they may answer
for a minute more. So their ends are not certain (`MemberTable.ending`), and swaps say NotSettled meanwhile.

The states of a swap
--------------------
    staging    ── all staged                     ──> storing
    staging    ── one failed, ended, or was late ──> aborting
    storing    ── the store has it               ──> following
    storing    ── the store refused              ──> aborting
    following  ── all answer with it             ──> settling
    following  ── a newer coordinator            ──> unsettled
    settling   ── all let out nothing older      ──> confirming
    settling   ── a newer coordinator            ──> unsettled
    confirming ── all expelled have ended        ──> settled
    confirming ── an end is not confirmed        ──> unsettled
    confirming ── a newer coordinator            ──> unsettled
    aborting   ── all freed, or late             ──> aborted

Theory of operation: `members` has the books, `tally` whom a phase still waits for, `swap` the machine over the table in
`states`, `timeouts` who is late, `coordination` all of these together, `orders` what comes out, `story` what has
happened. On a member's side `session` is the talk, `follower` what a replica does with a target, `fence` what a gateway
does with it. Compare h11 (states in a table) and etcd/raft (a core that does no I/O).
"""
