"""The shortest crashes, with fewer orders. `make chaos` runs all of them."""

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.crashes import Site, crash_named, run_crash, table_row, temporary_site

ORDERS = 56
RATE = 8.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with temporary_site() as site:
        yield site


@pytest.mark.chaos
@pytest.mark.alone
@pytest.mark.parametrize(
    "name",
    [
        "order-worker",
        "visible-worker",
        "shipping-worker",
        "api",
        pytest.param("worker-stop", marks=pytest.mark.proof),
    ],
)
async def test_no_order_is_lost_late_or_charged_twice_after_a_crash(
    site: Site, name: str, record_property: Callable[[str, object], None]
) -> None:
    aftermath = await run_crash(site, crash_named(name), orders=ORDERS, rate=RATE)
    record_property("crash", table_row(aftermath))
    assert aftermath.problems == []
