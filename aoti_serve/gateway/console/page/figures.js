/** From the totals that a server counts to what happened in the last seconds. */

const SPAN_S = 5; // gateways tell each other their counts so often: a shorter span would show that, not the traffic

/** Takes an answer of `/figures` a second, and gives a sample for the charts, null for the first. */
export class Figures {
  #past = [];

  take(found, now) {
    const last = this.#past.at(-1);
    if (last && (last.found.gateway !== found.gateway || reset(last.found, found))) this.#past = [];
    this.#past.push({ found, now });
    while (this.#past.length > 2 && now - this.#past[1].now >= SPAN_S) this.#past.shift();
    const first = this.#past[0];
    return this.#past.length > 1 ? sample(first.found, found, now - first.now) : null;
  }
}

function reset(before, after) {
  return after.answered < before.answered || Boolean(before.all) !== Boolean(after.all) || (after.all && after.all.answered < before.all.answered);
}

function sample(before, after, seconds) {
  const own = (found) => Object.values(found.failed).reduce((sum, count) => sum + count, 0);
  const [from, to] = after.all ? [before.all, after.all] : [{ ...before, failed: own(before) }, { ...after, failed: own(after) }];
  const counts = after.latency.counts.map((count, at) => count - before.latency.counts[at]);
  const runs = after.all ? to.runs - from.runs : 0;
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
