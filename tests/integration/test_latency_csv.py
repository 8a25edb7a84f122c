"""The latency CSV: text that a spreadsheet would run as a formula is escaped."""

import pytest

from db.database import Database
from db.domain import State
from db.orders import OrderRepository
from db.read_models.latency_report import CSV_COLUMNS, LatencyFilter, latency_rows
from tests.orders import OrderDriver, new_order


@pytest.mark.parametrize(
    ("run_id", "cell"),
    [(f"{prefix}1", f"'{prefix}1") for prefix in ("=", "+", "-", "@", "\t", "\r")] + [("a=1", "a=1")],
)
async def test_text_that_starts_like_a_formula_gets_an_apostrophe(
    pool: Database, repository: OrderRepository, run_id: str, cell: str
) -> None:
    await OrderDriver(repository, pool).carry_to(State.COMPLETED, new_order(run_id=run_id))
    (row,) = [row async for row in latency_rows(pool, LatencyFilter(run_id))]
    assert tuple(row) == CSV_COLUMNS
    assert (row["run_id"], row["scenario"], row["within_limit"]) == (cell, None, "true")
