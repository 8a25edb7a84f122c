"""A thousand and more orders, each asked for something at the worst moment; the answers must hold."""

import asyncio
from collections.abc import Callable, Iterable

import pytest
from temporalio.client import Client

from db.database import Database, Row
from db.domain import COMPENSATIONS, Reason, State
from orchestrator.audit import audit
from orchestrator.gateways.fault_injection import ProfileFaultInjector, named_profile
from tests.orders import ADDRESS, OTHER_ADDRESS
from tests.races.grid import CELLS, IN_REVIEW, Answered, Cell, Manner, Request, Score
from tests.races.racing_repository import PERSON, LosesTasks, Race, racing_repository
from tests.shop import Shop, open_shop

AT_ONCE = 40
LIMIT_SECONDS = 40.0
"""Long, so that a busy machine does not end orders at their deadline: that is proven elsewhere."""

OUTCOME_SECONDS = 1.5 * LIMIT_SECONDS

MORE_ROUNDS = 3
"""For cells whose boundary no order came to: on a busy machine a cancellation may come too late for
there to be anything to undo."""

REVIEW_SECONDS = 1.0
"""For requests that must arrive while the reviewer thinks."""

CELLS_UNDER_FAULTS = tuple(cell for cell in CELLS if cell.manner is Manner.ANSWERED)


@pytest.mark.timeout(600)
# The SDK says so when an activity ends just as the server takes it away for want of a heartbeat.
@pytest.mark.filterwarnings("ignore:Cannot find activity to cancel")
@pytest.mark.usefixtures("only_errors_are_logged")
async def test_every_request_at_every_boundary(
    client: Client,
    pool: Database,
    record_property: Callable[[str, object], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    assert len(CELLS) >= 1_000
    score = Score()
    contradictions = await run_cells(client, pool, "none", CELLS, score)
    for _ in range(MORE_ROUNDS):
        if missed := [cell for cell in CELLS if not score.hits[cell]]:
            contradictions += await run_cells(client, pool, "none", missed, score)
    table = score.table()
    record_property("races", table)
    (tmp_path_factory.mktemp("races") / "grid.md").write_text(table)
    assert contradictions == []
    assert [cell for cell in CELLS if not score.hits[cell]] == []


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Cannot find activity to cancel")
@pytest.mark.usefixtures("only_errors_are_logged")
async def test_requests_that_are_answered_at_a_boundary_under_the_assignment_faults(
    client: Client, pool: Database, record_property: Callable[[str, object], None]
) -> None:
    score = Score()
    assert await run_cells(client, pool, "assignment", CELLS_UNDER_FAULTS, score) == []
    record_property("races", score.table())
    assert sum(score.hits.values()) > len(CELLS_UNDER_FAULTS) // 2, "some boundaries are not come to"


async def run_cells(
    client: Client, pool: Database, profile: str, cells: Iterable[Cell], score: Score
) -> list[str]:
    """Runs one order a cell; returns every answer that the outcome contradicts. The audit must be clean."""
    race = Race(client)
    faults = ProfileFaultInjector(named_profile(profile, seed=7))
    gate = asyncio.Semaphore(AT_ONCE)
    losing = Client(client.service_client, namespace=client.namespace, interceptors=[LosesTasks(race)])
    async with open_shop(losing, pool, faults, name="race", repository=racing_repository(race)) as shop:

        async def one(number: int, cell: Cell) -> list[str]:
            order_id = f"{shop.run_id}-{number}"
            async with gate:
                answer = await run_order(shop, race, number, cell)
            if answer is None:
                return []
            score.hits[cell] += 1
            score.answers[cell.boundary, cell.request, answer] += 1
            return [
                f"{cell}: {answer}, yet {problem}" for problem in await problems(pool, order_id, cell, answer)
            ]

        found = await asyncio.gather(*(one(number, cell) for number, cell in enumerate(cells)))
    report = await audit(pool, client, shop.run_id)
    assert report.violations == []
    assert (report.finished, report.open_orders) == (len(found), [])
    return [problem for each in found for problem in each]


async def run_order(shop: Shop, race: Race, number: int, cell: Cell) -> Answered | None:
    """Carries one order through its race. Returns the answer, or None when the boundary was not reached."""
    review_seconds = REVIEW_SECONDS if cell.boundary == IN_REVIEW else 0.05
    order = shop.order(str(number), auto_review_seconds=review_seconds, limit_seconds=LIMIT_SECONDS)
    race.enter(order.order_id, cell)
    handle = await shop.place(order)
    try:
        async with asyncio.timeout(OUTCOME_SECONDS):
            await handle.result()
            request = race.sent.get(order.order_id)
            return None if request is None else await request
    except TimeoutError:
        return Answered.NEVER


async def problems(pool: Database, order_id: str, cell: Cell, answer: Answered) -> list[str]:
    """What in the books and at the provider contradicts the answer; empty when it holds."""
    if answer is Answered.NEVER:
        return ["nothing else happened"]
    row = await pool.fetch_one(STANDING, {"order_id": order_id, "person": PERSON})
    assert row is not None
    return [
        f"{name} is {row[name]!r}, not {value!r}"
        for name, value in expected(cell, answer).items()
        if row[name] != value
    ]


def expected(cell: Cell, answer: Answered) -> Row:
    """What must be found of an order whose request was answered so."""
    accepted = answer is Answered.ACCEPTED
    row: Row = {"state": State.COMPLETED, "abort_reason": None, "charges": 1, "accepted": int(accepted)}
    if cell.boundary.step in COMPENSATIONS:
        row |= {"state": State.CANCELLED, "abort_reason": Reason.CUSTOMER_CANCELLED, "accepted": 1 + accepted}
        return row
    match cell.request:
        case Request.CANCEL if accepted:
            row |= {"state": State.CANCELLED, "abort_reason": Reason.CUSTOMER_CANCELLED}
            del row["charges"]
        case Request.REJECT if accepted:
            row |= {"state": State.CANCELLED, "abort_reason": Reason.REVIEW_REJECTED, "charges": 0}
        case Request.ADDRESS:
            row["label"] = vars(OTHER_ADDRESS if accepted else ADDRESS)
        case Request.APPROVE:
            row["was_reviewed_by_person"] = accepted
    return row


STANDING = """
select o.state, o.abort_reason, o.reviewer = %(person)s as was_reviewed_by_person, l.label_address as label,
    (select count(*) from provider.ledger c where c.order_id = o.order_id and c.kind = 'charge') as charges,
    (select count(*) from events e where e.order_id = o.order_id and e.kind = 'signal'
        and (e.detail ->> 'accepted')::boolean) as accepted
from orders o left join provider.parcels l on l.order_id = o.order_id and l.dispatched_at is not null
where o.order_id = %(order_id)s
"""
