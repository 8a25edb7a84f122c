"""The loop of attempts inside an activity, on the real books and the simulated outside."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import perf_counter

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from db.database import Database
from db.domain import COMPENSATIONS, Address, Reason, State, Step
from db.orders import OrderRepository, StaleAttempt
from orchestrator.activities import step_runner as attempts_module
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_runner import MAX_BACKOFF, StepRunner
from orchestrator.deadlines import ATTEMPT_TIMEOUT
from orchestrator.errors import DatabaseUnavailable, GatewayDeclined, GatewayError
from orchestrator.gateways.fault_injection import (
    FaultProfile,
    ProfileFaultInjector,
    Rates,
    named_profile,
)
from orchestrator.gateways.simulated import simulated_gateways
from orchestrator.messages import (
    FinishRequest,
    OpenRequest,
    StepRequest,
    StepStatus,
)
from tests.orders import NO_FAULTS, OTHER_ADDRESS, OrderDriver, failed, new_order, provider_balance

SOON = timedelta(milliseconds=300)
LATER = timedelta(seconds=60)


@pytest.fixture(scope="module")
def driver(repository, pool):
    return OrderDriver(repository, pool)


class Gateways:
    """Answers in turn what a script says: None works, an exception is raised, a number is slept."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.calls = []

    async def __call__(self, attempt):
        self.calls.append(attempt)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await asyncio.sleep(answer)
        return {"call": len(self.calls)}


def request(
    order_id: str, step: Step = Step.RECEIVE, *, within: timedelta | None = LATER, time_budget=None
) -> StepRequest:
    not_after = None if within is None else datetime.now(UTC) + within
    return StepRequest(order_id, step, not_after, time_budget)


async def run(repository, step_request, call, **options):
    """Runs the loop as an activity; returns its result and what it said in heartbeats."""
    environment, heartbeats = ActivityEnvironment(), []
    environment.on_heartbeat = lambda *details: heartbeats.append(details)

    async def activity():
        return await StepRunner(repository, NO_FAULTS).run(step_request, call, **options)

    return await environment.run(activity), heartbeats


# --- What the outside answers -------------------------------------------------------------------------


async def test_a_call_that_works_is_made_once_and_its_answer_is_kept(driver):
    order_id, gateways = await driver.open(), Gateways()
    result, _ = await run(driver.repository, request(order_id), gateways)
    assert (result.status, result.attempts, len(gateways.calls)) == (StepStatus.DONE, 1, 1)
    (event,) = await driver.events(order_id, "attempt")
    assert (event["outcome"], event["detail"]) == ("ok", {"call": 1})


async def test_every_attempt_ends_up_in_the_books_with_its_outcome_and_duration(driver):
    order_id = await driver.open()
    gateways = Gateways(GatewayError("no"), 300.0, GatewayError("no again"))
    result, heartbeats = await run(driver.repository, request(order_id), gateways)
    assert (result.status, result.attempts) == (StepStatus.DONE, 4)
    assert await driver.attempts(order_id) == [
        ("receive", 1, "error"),
        ("receive", 2, "timeout"),
        ("receive", 3, "error"),
        ("receive", 4, "ok"),
    ]
    events = await driver.events(order_id, "attempt")
    timeout_ms = ATTEMPT_TIMEOUT.total_seconds() * 1000
    assert [event["detail"].get("error") for event in events] == [
        "no",
        f"no response within {timeout_ms:.0f} ms",
        "no again",
        None,
    ]
    assert timeout_ms <= events[1]["duration_ms"] < timeout_ms + 200
    assert heartbeats == [(1, None), (2, "no"), (3, events[1]["detail"]["error"]), (4, "no again")]


async def test_a_declined_call_is_not_repeated(driver):
    order_id, gateways = await driver.open(), Gateways(GatewayError("no"), GatewayDeclined("never"))
    result, _ = await run(driver.repository, request(order_id), gateways)
    assert (result.status, result.attempts, result.message) == (StepStatus.DECLINED, 2, "never")
    assert (await driver.attempts(order_id))[-1] == ("receive", 2, "declined")
    assert await driver.open_attempts(order_id) == 1
    assert (await driver.repository.start_next_attempt(order_id, Step.RECEIVE)).number == 3


@pytest.mark.parametrize("step", COMPENSATIONS)
async def test_a_declined_compensation_is_repeated_until_it_works(driver, step):
    order_id = await driver.carry_to(State.PREPARED)
    await driver.abort(order_id)
    gateways = Gateways(GatewayDeclined("not today"), GatewayDeclined("nor tomorrow"))
    began = perf_counter()
    result, _ = await run(driver.repository, request(order_id, step, within=None), gateways)
    assert (result.status, result.attempts) == (StepStatus.DONE, 3)
    assert perf_counter() - began >= 2 * MAX_BACKOFF.total_seconds(), "a no is not asked for again at once"
    outcomes = [outcome for of_step, _, outcome in await driver.attempts(order_id) if of_step == step]
    assert outcomes == ["declined", "declined", "ok"]


async def test_quick_errors_are_spaced_out_and_timeouts_are_not(driver):
    order_id, gateways = await driver.open(), Gateways(*[GatewayError("no")] * 4)
    began = perf_counter()
    await run(driver.repository, request(order_id), gateways)
    # 20 + 40 + 80 + 160 ms of pauses.
    assert perf_counter() - began >= 0.3
    order_id, gateways = await driver.open(), Gateways(300.0, 300.0)
    began = perf_counter()
    await run(driver.repository, request(order_id), gateways)
    assert perf_counter() - began < 2 * ATTEMPT_TIMEOUT.total_seconds() + 0.2


async def test_an_unforeseen_error_leaves_the_attempt_open_and_the_next_run_calls_it_lost(driver):
    order_id = await driver.open()
    with pytest.raises(ZeroDivisionError):
        await run(driver.repository, request(order_id), Gateways(ZeroDivisionError("bug")))
    result, _ = await run(driver.repository, request(order_id), Gateways())
    assert (result.status, result.attempts) == (StepStatus.DONE, 2)
    assert await driver.attempts(order_id) == [("receive", 1, "lost"), ("receive", 2, "ok")]


# --- When it stops ------------------------------------------------------------------------------------


async def test_no_attempt_starts_past_the_moment_to_give_up(driver):
    order_id, gateways = await driver.open(), Gateways()
    result, _ = await run(driver.repository, request(order_id, within=timedelta(0)), gateways)
    assert (result.status, gateways.calls) == (StepStatus.OUT_OF_TIME, [])
    assert await driver.attempts(order_id) == []


async def test_attempts_are_repeated_until_the_moment_to_give_up_and_the_last_one_is_closed(driver):
    order_id, gateways = await driver.open(), Gateways(*[GatewayError("no")] * 1000)
    step_request = request(order_id, within=SOON)
    result, _ = await run(driver.repository, step_request, gateways)
    assert result.status is StepStatus.OUT_OF_TIME
    assert result.attempts == len(gateways.calls) >= 2
    events = await driver.events(order_id, "attempt")
    assert [event["outcome"] for event in events] == ["error"] * result.attempts
    assert all(event["started_at"] <= step_request.not_after for event in events)


async def test_a_step_that_is_not_done_when_its_patience_is_over_is_handed_back_unfinished(driver):
    order_id, gateways = await driver.open(), Gateways(*[GatewayError("no")] * 1000)
    result, _ = await run(driver.repository, request(order_id, time_budget=0.2), gateways)
    assert result.status is StepStatus.UNFINISHED
    assert [outcome for _, _, outcome in await driver.attempts(order_id)] == ["error"] * result.attempts
    # The next run goes on where this one stopped, without a lost attempt in between.
    following, _ = await run(driver.repository, request(order_id), Gateways())
    assert (following.status, following.attempts) == (StepStatus.DONE, result.attempts + 1)


async def test_without_any_patience_there_is_still_one_attempt(driver):
    order_id, gateways = await driver.open(), Gateways(GatewayError("no"))
    result, _ = await run(driver.repository, request(order_id, time_budget=0.0), gateways)
    assert (result.status, len(gateways.calls)) == (StepStatus.UNFINISHED, 1)


async def test_a_compensation_never_gives_up(driver):
    order_id = await driver.carry_to(State.CHARGED)
    await driver.abort(order_id)
    gateways = Gateways(*[GatewayError("no")] * 6)
    result, _ = await run(driver.repository, request(order_id, Step.REFUND, within=None), gateways)
    assert (result.status, result.attempts) == (StepStatus.DONE, 7)


@pytest.mark.parametrize("step", [Step.REFUND, Step.RECALL])
async def test_a_compensation_that_is_not_due_has_nothing_to_undo(driver, step):
    order_id, gateways = await driver.carry_to(State.DISPATCHED), Gateways()
    result, _ = await run(driver.repository, request(order_id, step, within=None), gateways)
    assert (result.status, gateways.calls) == (StepStatus.DONE, [])


async def test_an_order_that_is_turned_back_gets_no_further_attempt(driver):
    order_id = await driver.open()

    async def gateways(attempt):
        await driver.abort(order_id)
        raise GatewayError("no")

    result, _ = await run(driver.repository, request(order_id), gateways)
    assert (result.status, result.attempts) == (StepStatus.ABORTED, 1)
    assert await driver.attempts(order_id) == [("receive", 1, "error")]
    assert await driver.open_attempts(order_id) == 1


async def test_what_worked_although_the_order_was_turned_back_meanwhile_is_told_and_undone_by_others(driver):
    order_id = await driver.carry_to(State.APPROVED)

    async def gateways(attempt):
        await driver.abort(order_id)
        return {}

    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), gateways)
    assert result.status is StepStatus.ABORTED
    assert (await driver.row(order_id))["state"] == "approved"
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "ok")]


async def test_a_step_that_was_done_before_is_not_done_again(driver):
    order_id, gateways = await driver.carry_to(State.CHARGED), Gateways()
    events = await driver.events(order_id)
    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), gateways)
    assert (result.status, gateways.calls) == (StepStatus.DONE, [])
    assert await driver.events(order_id) == events


async def test_receive_is_not_called_again_once_it_is_completed(driver):
    order_id, gateways = await driver.open(), Gateways()
    for _ in range(2):
        result, _ = await run(driver.repository, request(order_id), gateways)
        assert result.status is StepStatus.DONE
    assert len(gateways.calls) == 1
    assert await driver.attempts(order_id) == [("receive", 1, "ok")]


async def test_a_step_that_was_done_before_is_done_even_past_the_moment_to_give_up(driver):
    order_id = await driver.carry_to(State.PREPARED)
    result, _ = await run(driver.repository, request(order_id, Step.CHARGE, within=timedelta(0)), Gateways())
    assert result.status is StepStatus.DONE


async def test_an_unknown_order_is_an_error(driver):
    with pytest.raises(LookupError):
        await run(driver.repository, request("nobody"), Gateways())


async def test_a_worker_whose_step_was_taken_over_stops(driver):
    order_id = await driver.open()

    async def gateways(attempt):
        await driver.repository.start_next_attempt(order_id, Step.RECEIVE)
        raise GatewayError("no")

    with pytest.raises(StaleAttempt):
        await run(driver.repository, request(order_id), gateways)
    assert await driver.attempts(order_id) == [("receive", 1, "lost")]


async def test_the_same_step_in_two_activities_at_once_is_done_once(driver):
    order_id = await driver.carry_to(State.APPROVED)
    results = await asyncio.gather(
        *(
            run(driver.repository, request(order_id, Step.CHARGE), Gateways(GatewayError("no"), 0.02))
            for _ in range(4)
        ),
        return_exceptions=True,
    )
    done = [result for result in results if not isinstance(result, BaseException)]
    assert done
    assert {result.status for result, _ in done} == {StepStatus.DONE}
    assert all(isinstance(result, (tuple, StaleAttempt)) for result in results)
    assert (await driver.row(order_id))["state"] == "charged"
    moves = [event for event in await driver.events(order_id) if event["state"] == "charged"]
    assert len(moves) == 1


# --- The worker is ending -----------------------------------------------------------------------------


async def ended(repository, step_request, call):
    """As `run`, on a worker that is told to end before the activity begins."""
    environment = ActivityEnvironment()
    environment.worker_shutdown()

    async def activity():
        return await StepRunner(repository, NO_FAULTS).run(step_request, call)

    return await environment.run(activity)


async def test_a_worker_that_is_ending_begins_no_attempt_and_says_so_where_the_workflow_waits(driver):
    order_id, gateways = await driver.open(), Gateways()
    result = await ended(driver.repository, request(order_id, time_budget=2.0), gateways)
    assert (result.status, gateways.calls) == (StepStatus.UNFINISHED, [])
    assert await driver.attempts(order_id) == []


@pytest.mark.parametrize("step", [Step.CHARGE, Step.REFUND])
async def test_a_worker_that_is_ending_hands_a_regular_activity_over_at_once(driver, step):
    order_id, gateways = await driver.carry_to(State.APPROVED), Gateways()
    if step is Step.REFUND:
        await driver.abort(order_id)
    with pytest.raises(ApplicationError) as handed_over:
        await ended(driver.repository, request(order_id, step), gateways)
    assert not handed_over.value.non_retryable
    assert handed_over.value.next_retry_delay <= timedelta(milliseconds=10)
    assert gateways.calls == []


async def test_the_attempt_under_way_is_closed_before_a_step_is_handed_over(driver):
    order_id, environment = await driver.open(), ActivityEnvironment()

    async def gateways(attempt):
        environment.worker_shutdown()
        raise GatewayError("no")

    async def activity():
        return await StepRunner(driver.repository, NO_FAULTS).run(request(order_id), gateways)

    with pytest.raises(ApplicationError):
        await environment.run(activity)
    assert await driver.attempts(order_id) == [("receive", 1, "error")]


async def test_what_was_done_or_turned_back_is_told_even_by_a_worker_that_is_ending(driver):
    charged, aborted = await driver.carry_to(State.CHARGED), await driver.carry_to(State.APPROVED)
    await driver.abort(aborted)
    assert (
        await ended(driver.repository, request(charged, Step.CHARGE), Gateways())
    ).status is StepStatus.DONE
    assert (
        await ended(driver.repository, request(aborted, Step.CHARGE), Gateways())
    ).status is StepStatus.ABORTED


# --- The books away -----------------------------------------------------------------------------------


class Flaky:
    """The books, which do not answer the calls of one kind a number of times: before or after the write."""

    def __init__(
        self, repository: OrderRepository, method: str, times: int, *, after_the_write: bool = False
    ) -> None:
        self._repository, self._method, self._times, self._after = repository, method, times, after_the_write

    def __getattr__(self, name):
        real = getattr(self._repository, name)
        if name != self._method:
            return real

        async def flaky(*arguments, **options):
            if self._times <= 0:
                return await real(*arguments, **options)
            self._times -= 1
            if self._after:
                await real(*arguments, **options)
            raise DatabaseUnavailable

        return flaky


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(attempts_module, "DATABASE_BACKOFF", timedelta(milliseconds=5))


@pytest.mark.parametrize("times", [1, 5])
async def test_a_short_absence_of_the_books_after_the_call_is_waited_out_without_another_call(
    driver, quick, times
):
    order_id, gateways = await driver.carry_to(State.APPROVED), Gateways()
    repository = Flaky(driver.repository, "complete_step", times)
    result, _ = await run(repository, request(order_id, Step.CHARGE), gateways)
    assert (result.status, len(gateways.calls)) == (StepStatus.DONE, 1)
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "ok")]


@pytest.mark.parametrize(
    ("step", "state"),
    [(Step.RECEIVE, State.RECEIVED), (Step.CHARGE, State.APPROVED), (Step.REFUND, State.CHARGED)],
)
async def test_a_write_whose_answer_was_lost_is_not_written_twice(driver, quick, step, state):
    order_id, gateways = await driver.carry_to(state), Gateways()
    if step is Step.REFUND:
        await driver.abort(order_id)
    repository = Flaky(driver.repository, "complete_step", 1, after_the_write=True)
    result, _ = await run(
        repository, request(order_id, step, within=None if step is Step.REFUND else LATER), gateways
    )
    assert result.status is StepStatus.DONE
    assert (await driver.attempts(order_id, step)).count((step.value, 1, "ok")) == 1
    assert (await driver.repository.snapshot(order_id)) is not None


async def test_a_longer_absence_hands_the_step_to_the_next_run_which_calls_the_attempt_lost(driver, quick):
    order_id, gateways = await driver.carry_to(State.APPROVED), Gateways()
    with pytest.raises(DatabaseUnavailable):
        await run(Flaky(driver.repository, "complete_step", 99), request(order_id, Step.CHARGE), gateways)
    result, _ = await run(driver.repository, request(order_id, Step.CHARGE), gateways)
    assert (result.status, result.attempts, len(gateways.calls)) == (StepStatus.DONE, 2, 2)
    assert await driver.attempts(order_id, Step.CHARGE) == [("charge", 1, "lost"), ("charge", 2, "ok")]


@pytest.mark.parametrize("method", ["start_next_attempt", "snapshot"])
async def test_without_the_books_nothing_is_tried(driver, method):
    order_id, gateways = await driver.open(), Gateways()
    within = LATER if method == "start_next_attempt" else timedelta(0)
    with pytest.raises(DatabaseUnavailable):
        await run(Flaky(driver.repository, method, 1), request(order_id, within=within), gateways)
    assert gateways.calls == []


async def test_books_that_are_not_there_are_away_within_two_seconds(tmp_path):
    began = perf_counter()
    async with Database(f"postgresql://postgres@/orders?host={tmp_path}") as nowhere:
        with pytest.raises(DatabaseUnavailable):
            await OrderRepository(nowhere, "worker").snapshot("order")
    assert perf_counter() - began < 2


# --- The desks: each activity with its party ------------------------------------------------------------


class ActivitySet:
    """The real activities on the real books, with a fault profile."""

    def __init__(self, pool: Database, repository: OrderRepository, profile: FaultProfile) -> None:
        self.gateways = simulated_gateways(pool)
        attempts = StepRunner(repository, ProfileFaultInjector(profile))
        self.orders = OrderActivities(repository, attempts, self.gateways)
        self.cashier = PaymentActivities(attempts, self.gateways.payments)
        self.shipping = ShippingActivities(attempts, self.gateways)
        self.activities = {
            Step.RECEIVE: self.orders.receive,
            Step.VALIDATE: self.orders.validate,
            Step.CHARGE: self.cashier.charge,
            Step.PREPARE: self.shipping.prepare,
            Step.DISPATCH: self.shipping.dispatch,
            Step.REFUND: self.cashier.refund,
            Step.RECALL: self.shipping.recall,
        }

    async def do(self, order_id: str, step: Step, **options):
        within = None if step in (Step.REFUND, Step.RECALL) else LATER
        return await ActivityEnvironment().run(
            self.activities[step], request(order_id, step, within=within, **options)
        )


@pytest.fixture(scope="module")
def faultless(pool, repository):
    return ActivitySet(pool, repository, named_profile("none"))


PATH = {
    Step.RECEIVE: State.RECEIVED,
    Step.VALIDATE: State.IN_REVIEW,
    Step.CHARGE: State.CHARGED,
    Step.PREPARE: State.PREPARED,
    Step.DISPATCH: State.DISPATCHED,
}


async def carry_out(driver, activities, order) -> None:
    await driver.open(order)
    for step, state in PATH.items():
        assert (await activities.do(order.order_id, step)).status is StepStatus.DONE
        assert (await driver.row(order.order_id))["state"] == state
        if step is Step.VALIDATE:
            await driver.repository.approve(order.order_id, "reviewer", request_id="a1")


@pytest.mark.parametrize("profile", ["none", "assignment", "lossy"])
async def test_an_order_is_carried_out_and_charged_and_dispatched_once_under_every_fault(
    driver, pool, repository, profile
):
    order = new_order()
    activities = ActivitySet(pool, repository, named_profile(profile, seed=4))
    await carry_out(driver, activities, order)
    await activities.orders.finish(FinishRequest(order.order_id, State.COMPLETED))
    assert await provider_balance(pool, order.payment_id) == (4200, 0)
    parcels = await pool.fetch_all(
        "select * from provider.parcels where order_id = %(id)s", {"id": order.order_id}
    )
    assert [(parcel["label_version"], parcel["recalled_at"]) for parcel in parcels] == [(1, None)]
    numbers: dict[str, list[int]] = {}
    for step, number, _ in await driver.attempts(order.order_id):
        numbers.setdefault(step, []).append(number)
    assert all(of_step == list(range(1, len(of_step) + 1)) for of_step in numbers.values())


@pytest.mark.parametrize("profile", ["none", "assignment", "lossy"])
async def test_what_was_done_is_undone_under_every_fault(driver, pool, repository, profile):
    order = new_order()
    await driver.carry_to(State.PREPARED, order)
    activities = ActivitySet(pool, repository, named_profile(profile, seed=8))
    await activities.gateways.payments.charge(order.payment_id, order.order_id, 4200)
    await activities.gateways.warehouse.pack(order.order_id, order.order_id, order.items)
    await driver.abort(order.order_id)
    results = await asyncio.gather(
        *(activities.do(order.order_id, step) for step in (Step.REFUND, Step.RECALL))
    )
    assert {result.status for result in results} == {StepStatus.DONE}
    await activities.orders.finish(FinishRequest(order.order_id, State.CANCELLED))
    assert await provider_balance(pool, order.payment_id) == (4200, 4200)
    assert (await driver.row(order.order_id))["state"] == "cancelled"


async def test_an_address_changed_during_the_dispatch_gets_a_new_label(driver, pool, faultless, monkeypatch):
    order_id = await driver.carry_to(State.PREPARED)
    real_dispatch, labels = faultless.gateways.carrier.dispatch, []

    async def dispatch(key, order, address, version):
        if not labels:
            await driver.change_address(order_id)
        labels.append((address, version))
        return await real_dispatch(key, order, address, version)

    monkeypatch.setattr(faultless.gateways.carrier, "dispatch", dispatch)
    assert (await faultless.do(order_id, Step.DISPATCH)).status is StepStatus.DONE
    assert [version for _, version in labels] == [1, 2]
    row = await pool.fetch_one("select * from provider.parcels where order_id = %(id)s", {"id": order_id})
    assert (row["label_version"], row["label_address"]["street"]) == (2, OTHER_ADDRESS.street)


async def test_an_order_with_the_payment_of_another_is_declined(driver, faultless):
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
        await driver.step(order.order_id, Step.RECEIVE)
    assert (await faultless.do(first.order_id, Step.VALIDATE)).status is StepStatus.DONE
    result = await faultless.do(second.order_id, Step.VALIDATE)
    assert (result.status, result.message) == (StepStatus.DECLINED, "the payment id belongs to another order")


async def test_the_refund_of_an_order_that_named_the_payment_of_another_leaves_that_payment_alone(
    driver, faultless, pool
):
    # As when such an order is terminated, and reconciled, before it was ever validated.
    first = new_order()
    second = new_order(payment_id=first.payment_id)
    for order in (first, second):
        await driver.open(order)
    await driver.abort(second.order_id, Reason.TERMINATED)
    assert (await faultless.do(second.order_id, Step.REFUND)).status is StepStatus.DONE
    await faultless.gateways.payments.charge(first.payment_id, first.order_id, 4200)
    assert await provider_balance(pool, first.payment_id) == (4200, 0)


async def test_an_address_without_delivery_is_declined(driver, faultless):
    order_id = await driver.open(new_order(initial_address=Address("1 Nowhere", "Void", "XX", "00000")))
    await driver.step(order_id, Step.RECEIVE)
    assert (await faultless.do(order_id, Step.VALIDATE)).status is StepStatus.DECLINED


async def test_an_outside_that_declines_is_heard_at_once(driver, pool, repository):
    activities = ActivitySet(pool, repository, FaultProfile("custom", 1, Rates(decline=1.0), {}))
    result = await activities.do(await driver.open(), Step.RECEIVE)
    assert (result.status, result.attempts) == (StepStatus.DECLINED, 1)


async def test_an_order_carried_out_before_is_refused_for_good(driver, faultless):
    order, now = new_order(), datetime.now(UTC)
    first = OpenRequest(order, "run-1", now, now + timedelta(seconds=15))
    second = OpenRequest(order, "run-2", now, now + timedelta(seconds=15))
    assert await faultless.orders.open(first)
    assert await faultless.orders.open(first)
    with pytest.raises(ApplicationError) as refused:
        await faultless.orders.open(second)
    assert (refused.value.type, refused.value.non_retryable) == ("DuplicateOrder", True)


async def test_an_outcome_the_books_are_not_ready_for_is_an_error_and_one_written_before_is_returned(
    driver, faultless
):
    order_id = await driver.carry_to(State.CHARGED)
    for outcome in (State.COMPLETED, State.CANCELLED):
        with pytest.raises(RuntimeError, match=f"cannot be {outcome}"):
            await faultless.orders.finish(FinishRequest(order_id, outcome))
    await driver.repository.abort(order_id, Reason.DEADLINE, "system")
    await driver.step(order_id, Step.REFUND, refund_outcome="refunded")
    first = await faultless.orders.finish(FinishRequest(order_id, State.FAILED))
    again = await faultless.orders.finish(FinishRequest(order_id, State.COMPLETED))
    assert first == again
    assert (first.outcome, first.reason) == (State.FAILED, Reason.DEADLINE)


async def test_a_failed_attempt_is_numbered_on_by_the_activity_of_the_next_worker(driver, pool):
    order_id = await driver.open()
    attempt = await OrderRepository(pool, "worker-a").start_next_attempt(order_id, Step.RECEIVE)
    await OrderRepository(pool, "worker-a").end_attempt(order_id, Step.RECEIVE, failed(attempt.number))
    result, _ = await run(OrderRepository(pool, "worker-b"), request(order_id), Gateways())
    assert result.attempts == 2
    assert [event["worker"] for event in await driver.events(order_id, "attempt")] == ["worker-a", "worker-b"]
