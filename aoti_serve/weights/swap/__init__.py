"""Swaps: all members of a model's cluster hold one version of the weights, or all hold the one before.

Members are the model's replicas and gateways. One coordinator per model publishes a target. Every member compares it
with what it holds, does what is missing, and reports. There is no Ray here, no socket and no file: events and a clock
go in, orders come out (`coordination`). So tests drive these very classes in every order and in simulated time.

The rules
---------
1. A version is committed when the store has written it (`Commit`, then `stored`). Before that point a swap may only
   abort, after it only go on.
2. It is written when every live member has staged it, and at least one of them is a replica. A replica that ends while
   it stages fails the swap, unless it had said that it leaves.
3. Members that are late after the commit are expelled. The swap returns when every other member holds the new version,
   no gateway lets out anything older, and all expelled members have certainly ended. Else it is UNSETTLED.
4. A coordinator that a newer one has replaced commits nothing, expels none, and answers no question. The store counts
   coordinators by terms. Members listen to the newest term that they know.
5. A member becomes ready after it has reported, no longer as joining, that it holds what a coordinator has just
   confirmed. From that report on every swap waits for it.
6. A candidate is staged everywhere and not written. From then on an end of a replica changes nothing; a replica that
   cannot stage it withdraws it everywhere, and members that are late to let go of it are expelled. The coordinator
   remembers it, and its successor goes on with it.
7. A gateway lets out no answer of an epoch before `settled_epoch` (`Fence`). After it was stopped it lets out none
   until it has asked for the target again.

A member whose connection has ended is away, and may have ended. It has ended when Ray's control store says so. In a
partition that is not certain: Ray takes the members on the other side for dead, cannot kill them, and they may answer
for a minute more. They are in `MemberTable.ending`, and swaps raise NotSettled meanwhile.

The states of a swap
--------------------
    staging    ── all staged                     ──> storing
    staging    ── all staged a candidate         ──> held
    staging    ── one failed, ended, or was late ──> aborting
    held       ── it is promoted                 ──> staging
    held       ── it is withdrawn                ──> aborting
    held       ── one failed, ended, or was late ──> aborting
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

`members` keeps the reports, and knows which members a phase still waits for. `swap` is the machine over the table in
`states`, `timeouts` says which members are late, `coordination` joins these, `orders` come out, `story` keeps the last
events. On a member's side `follower` decides what reports say, and what replicas and gateways do with a target.
Compare h11 (states in a table) and etcd/raft (a core that does no I/O).
"""
