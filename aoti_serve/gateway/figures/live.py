"""What one model does now, for whoever looks at it every second: the console, and `aoti-serve top`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aoti_serve.cluster.calls import CALL_FAILED
from aoti_serve.gateway.figures.outcomes import RequestOutcome
from aoti_serve.gateway.served_model import ServedModel
from aoti_serve.protocol.statistics import VersionStatistics, summed


async def live_figures(served: ServedModel) -> dict[str, Any]:
    """Totals, of which a reader takes differences, and what is in hand at this moment.

    `all` is counted by all gateways, the others' as they last told it, None while the coordinator cannot be asked. The
    rest is this gateway's own: the `version` that answers who asks for none, `failed` by outcome, `latency` as counts
    by bucket, in seconds, `waiting` rows, and replicas.
    """
    own, load = served.figures, served.load
    failed = Counter[str]()
    for (_, _, outcome), count in own.requests.items():
        failed[outcome.value] += count
    answered = failed.pop(RequestOutcome.OK.value, 0)
    histograms = list(own.latency.values())
    return {
        "gateway": served.gateway,
        "version": served.version,
        "all": await _of_all(served),
        "answered": answered,
        "failed": failed,
        "latency": {
            "bounds": histograms[0].bounds,
            "counts": [sum(counts) for counts in zip(*(each.counts for each in histograms), strict=True)],
        },
        "waiting": load.rows,
        "batches": load.batches,
        "runners": load.runners,
        "replicas": [state._asdict() for state in served.replicas],
    }


async def _of_all(served: ServedModel) -> dict[str, int] | None:
    try:
        total: VersionStatistics = summed(await served.statistics.total(), served.version)
    except CALL_FAILED:
        return None
    return {
        "answered": total.success,
        "failed": total.fail,
        "rows": total.inference_count,
        "runs": total.execution_count,
    }
