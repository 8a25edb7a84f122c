"""The latency CSV: text that a spreadsheet would run as a formula is escaped."""

import csv
import io

import pytest

from db.database import Database
from db.domain import State
from db.orders import OrderRepository
from db.read_models.latency_report import LatencyFilter, stream_latency_csv
from tests.orders import OrderDriver, new_order

COLUMNS = (
    "order_id", "run_id", "scenario", "outcome", "reason",
    "requested_at", "accepted_at", "finished_at",
    "end_to_end_ms", "completion_ms", "within_limit",
    "ingress_ms", "receive_ms", "validate_ms", "review_ms", "charge_ms", "prepare_ms", "dispatch_ms",
    "compensate_ms", "waiting_ms",
    "attempts", "failed_attempts", "timed_out_attempts",
)  # fmt: skip


@pytest.mark.parametrize(
    ("run_id", "cell"),
    [(f"{prefix}1", f"'{prefix}1") for prefix in ("=", "+", "@", "\t", "\r")]
    + [("-1-2", "'-1-2"), ("-a", "'-a"), ("--1", "'--1"), ("a=1", "a=1")]
    # A negative integer is a number, not a formula.
    + [("-1", "-1"), ("00017", "00017"), ("NA", "NA")],
)
async def test_text_that_starts_like_a_formula_gets_an_apostrophe(
    pool: Database, repository: OrderRepository, run_id: str, cell: str
) -> None:
    await OrderDriver(repository, pool).carry_to(State.COMPLETED, new_order(run_id=run_id))
    text = b"".join([chunk async for chunk in stream_latency_csv(pool, LatencyFilter(run_id))]).decode()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(row) == COLUMNS
    assert (row["run_id"], row["scenario"], row["within_limit"]) == (cell, "", "true")
