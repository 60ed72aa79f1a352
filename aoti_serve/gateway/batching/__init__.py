"""Batching: admission, order, departure, and the handling of failed runs.

The decisions are pure, except for the event loop's clock. Requests share runs. This is the whole policy, in the order
in which a request meets it.

**Admission.** A request that may not wait is refused at once (QueueFull, 503, with the seconds after which to come
again): beyond `max_queued_rows`, of which a request larger than a batch takes one batch, or `max_queued_bytes`, and if
the rows before it would not leave within `max_queue_wait_ms` at the pace measured while all runners are busy. So an
overload costs the clients that send too much, and not all clients their latency. A full batch for each runner may
always wait, however slow the model is; while the pace is not known, or there is no runner, only the first two limits
hold. When nothing waits, any request is let in.

**Order.** A request goes by its arrival plus its level of priority (1 to 9; 0, or nothing, means 5) times
`priority_ageing_ms`: the urgent first, equals in order, and no request waits longer than eight times that for others
that came later. For admission only rows of the same or of more urgent levels count: the urgent get in when the queue is
full of others.

**Leaving.** While a runner is free, rows leave at once: one client pays no delay. While all are busy rows gather, and
the next free runner takes up to `max_batch_size` of them: many clients fill the batches by themselves. Rows count, not
requests, and only equal trailing shapes go together. With `max_queue_delay_ms` rows wait so long for company even while
a runner is free. While more than half a batch waits, or more than 64 requests, as many more batches as there are
runners leave ahead, so that a runner finds the next one in its replica: the way may take longer than the run. Fewer
rows gather, which is worth more than the gap. The batch whose first row goes first leaves first.

**Lengths.** Where a package says how rows are padded (docs/guides/lengths.md), those of about one length, or of one
compiled size, wait together, and leave padded to the longest of them. If the last free runner has room left, others
join that would wait for it: if the batch with them takes less time, by the measured costs of both lengths, than one
after the other. Where no such batch has run, those of about as many elements tell. Every 64th time nobody joins, so
that costs apart are measured again. Padding is never more than seven eighths of a batch for that.

**Holding.** A few clients that send one request after the other fall into two groups that run by turns, at twice the
cost of a run. So the last free runner waits for those that were just answered if all of them are served sooner that
way, by the measured costs of batches of those sizes and times in which clients have come back. Their rows end the hold,
and a timer if they do not come; it is never longer than what it may save, nor lets a deadline pass, and is given up
when another runner is free or another shape comes. There is none if clients come that no answer has brought: then saved
time helps no client. Wrong estimates cost at most a 50th of the time, beyond what right ones have saved.

**Large requests.** More rows than a batch holds are cut into nearly equal pieces, which run like other requests and
share batches with them, and are joined again in order. They take turns: a piece enters the queue when the one before
has left, as if it had come two batches' time after it, so that every other batch is for the small requests that have
come meanwhile; if it falls behind, it goes before requests that come up to one `priority_ageing_ms` later, and no more.
One answer is of one version: if a swap came in between, the pieces that older weights answered run again. No piece is
below the model's smallest batch; where there is no other way the last two overlap.

**Giving up.** A request whose `timeout` passes gets DeadlineExceeded then, wherever it is. It leaves the queue and is
not run again, as a request whose caller has gone; a run that no request waits for any more is cancelled.

**Without a replica.** Rows wait for one `max_queue_wait_ms`, from their arrival or from the end of the last replica;
one that comes back meanwhile answers them. Then they get NoReplica (503, with the seconds after which to come again).

**Failures.** A batch that fails runs again in halves, on the same runner, until only the guilty request fails. If the
replica has died, its requests run again alone, one after the other: over the guilty one a second replica dies, and no
third (PoisonRequest). If the server cannot answer (Unavailable) all of them fail at once.
"""
