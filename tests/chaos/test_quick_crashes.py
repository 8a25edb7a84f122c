"""The crashes that take least time, with fewer orders; `make chaos` runs all of them."""

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.crashes import Site, named, run_crash, site_of_its_own, table_row

ORDERS = 56
RATE = 8.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with site_of_its_own() as site:
        yield site


@pytest.mark.chaos
@pytest.mark.alone
@pytest.mark.parametrize(
    "name",
    ["order-worker", "shipping-worker", "api", pytest.param("asked-to-end", marks=pytest.mark.proof)],
)
async def test_a_process_that_ends_breaks_no_promise(
    site: Site, name: str, record_property: Callable[[str, object], None]
) -> None:
    aftermath = await run_crash(site, named(name), orders=ORDERS, rate=RATE)
    record_property("crash", table_row(aftermath))
    assert aftermath.broken_promises == []
