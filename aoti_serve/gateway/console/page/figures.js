/** From the totals that a server counts to what happened in the last seconds. */

const SPAN_S = 5; // gateways tell each other their counts so often: a shorter span would show that, not the traffic

/** Takes an answer of `/figures` a second, and gives a sample for the charts; null for the first of a gateway. */
export class Figures {
  #past = new Map(); // by gateway: of several, any may take a connection

  take(found, now) {
    for (const [gateway, past] of this.#past) if (now - past.at(-1).now > SPAN_S) this.#past.delete(gateway);
    const past = this.#past.get(found.gateway) ?? [];
    if (past.length && startsAnew(past.at(-1).found, found)) past.length = 0;
    past.push({ found, now });
    while (past.length > 2 && now - past[1].now >= SPAN_S) past.shift();
    this.#past.set(found.gateway, past);
    return past.length > 1 ? sample(past[0].found, found, now - past[0].now) : null;
  }
}

function startsAnew(before, after) {
  return after.answered < before.answered || (before.all && after.all && after.all.answered < before.all.answered);
}

function sample(before, after, seconds) {
  const own = (found) => ({ ...found, failed: Object.values(found.failed).reduce((sum, count) => sum + count, 0) });
  const ofAll = before.all && after.all; // not while there is no coordinator
  const [from, to] = ofAll ? [before.all, after.all] : [own(before), own(after)];
  const counts = after.latency.counts.map((count, at) => count - before.latency.counts[at]);
  const runs = ofAll ? to.runs - from.runs : 0;
  return {
    requests: (to.answered + to.failed - from.answered - from.failed) / seconds,
    p50: quantile(counts, after.latency.bounds, 0.5),
    p99: quantile(counts, after.latency.bounds, 0.99),
    rows: runs > 0 ? (to.rows - from.rows) / runs : null,
    waiting: after.waiting,
    errors: (to.failed - from.failed) / seconds,
  };
}

/** In milliseconds, on the straight line through its bucket; null if nothing was counted. */
export function quantile(counts, bounds, part) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total <= 0) return null;
  let left = part * total;
  for (const [at, count] of counts.entries()) {
    if (left <= count && count > 0) {
      const low = at ? bounds[at - 1] : 0;
      return 1000 * (low + ((bounds[at] ?? low) - low) * (left / count));
    }
    left -= count;
  }
  return 1000 * bounds.at(-1);
}
