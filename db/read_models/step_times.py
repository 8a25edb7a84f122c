"""When the newest finished orders completed each step. Raises DatabaseError."""

from db import queries
from db.database import Row
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("step_times.sql")

MAX_ORDERS = 1_000
"""Read in 20 ms with their events, about 20 for each order under the `assignment` faults."""


def newest(reader: ReadOnlyDatabase, run_id: str | None = None, limit: int = MAX_ORDERS) -> list[Row]:
    """Return the orders that finished last, of a load test or of all orders.

    Times are in ms since acceptance: completion_ms, aborted_ms, and {step}_end_ms of each forward step, None
    for a step that the order did not complete or whose events were deleted. {step}_failures are the failed
    attempts of each step with attempts. Further columns: order_id, review, fault_profile, state, accepted_at,
    finished_at.
    """
    return reader.fetch_all(_SQL["newest"], {"run_id": run_id, "limit": limit})
