"""Exact percentiles of order records, for a whole run and for each second of it."""

import math
from collections import defaultdict
from collections.abc import Iterable

from db.read_models.percentiles import percentile
from loadtest.generator.recording import Ending, OrderRecord
from orchestrator.rest_client import Json

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}


def spread(values: Iterable[float | None]) -> Json | None:
    """Return count, mean and percentiles of the values that are not None; None if there are none."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    count_and_mean: Json = {"count": len(ordered), "mean": round(math.fsum(ordered) / len(ordered), 2)}
    return count_and_mean | {
        name: round(percentile(ordered, share), 2) for name, share in PERCENTILES.items()
    }


def per_second(records: Iterable[OrderRecord]) -> list[Json]:
    """Return one row for each second of the run, from its start to the last outcome.

    `offered` and `late` count the orders scheduled in that second, `accepted` the acknowledged starts,
    `finished` the outcomes; `in_flight` is the count at the end of the second. Times in ms, of the orders
    scheduled in that second, None without any: `accept_p99`, `completion_p50`, `completion_p99`,
    `end_to_end_p99`.
    """
    due: dict[int, list[OrderRecord]] = defaultdict(list)
    accepted: dict[int, int] = defaultdict(int)
    ended: dict[int, int] = defaultdict(int)
    finished: dict[int, int] = defaultdict(int)
    last = -1
    for record in records:
        due[int(record.due)].append(record)
        if record.accepted is not None:
            accepted[int(record.accepted)] += 1
        end = int(record.due + (record.end_to_end_ms or 0.0) / 1000)
        ended[end] += 1
        finished[end] += record.ending == Ending.OUTCOME
        last = max(last, end)
    rows = []
    in_flight = 0
    for second in range(last + 1):
        orders = due[second]
        in_flight += len(orders) - ended[second]
        completion = spread(order.completion_ms for order in orders)
        rows.append(
            {
                "second": second,
                "offered": len(orders),
                "accepted": accepted[second],
                "finished": finished[second],
                "late": sum(order.late for order in orders),
                "in_flight": in_flight,
                "lag_max": round(max((order.send_delay_ms for order in orders), default=0.0), 2),
                "accept_p99": _value(spread(order.accept_ms for order in orders), "p99"),
                "completion_p50": _value(completion, "p50"),
                "completion_p99": _value(completion, "p99"),
                "end_to_end_p99": _value(spread(order.end_to_end_ms for order in orders), "p99"),
            }
        )
    return rows


def _value(found: Json | None, name: str) -> float | None:
    return None if found is None else float(found[name])
