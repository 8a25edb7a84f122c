"""Mutants of the product, each with one plausible bug that affects one order: the victim, whose id ends in
VICTIM."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from temporalio import activity

from db.database import Database
from db.domain import (
    SAMPLE_ITEMS,
    Address,
    Item,
    NewOrder,
    Reason,
    RequestResult,
    State,
    Step,
    TemporalNamespace,
)
from db.orders import AttemptResult, OrderRepository, OrderSnapshot
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.fault_injection import FaultInjector
from orchestrator.gateways.protocols import (
    Carrier,
    Gateways,
    Guarantees,
    LedgerEntry,
    PackageRecord,
    ParcelRecord,
    Payment,
    PaymentProvider,
    RefundOutcome,
    Warehouse,
)
from orchestrator.messages.activities import AbortRequest, Activity, FinishRequest, StepRequest, StepResult
from orchestrator.messages.orders import OrderResult
from orchestrator.worker.factory import ActivitySet
from tests.orders import ADDRESS
from tests.shop import ActivitySetFactory, RepositoryFactory

HEALTHY = "healthy"
VICTIM = "victim"
UNPLACED = "unplaced"


def is_victim(order_id: str) -> bool:
    return order_id.endswith(VICTIM)


class Scenario(StrEnum):
    """What happens to both orders: the victim and a healthy one."""

    PLAIN = "plain"
    UNDELIVERABLE = "undeliverable"
    """The carrier declines the parcel, so the order is refunded and recalled."""

    CANCELLED_IN_REVIEW = "cancelled in review"
    """A customer cancels during the manual review; then the reviewer approves."""

    MOVED_IN_REVIEW = "moved in review"
    """The address changes during the manual review; then the reviewer approves."""

    REJECTED = "rejected"
    STARTED_AGAIN = "started again"
    """The same order id is started again after its outcome, directly at Temporal."""


@dataclass(frozen=True)
class Mutant:
    """A mutant, and the invariants that must report its victim."""

    name: str
    breaks: set[int]
    scenario: Scenario = Scenario.PLAIN
    repository: RepositoryFactory = OrderRepository
    activities: ActivitySetFactory = ActivitySet.create
    leaves_running: bool = False
    """Whether the victim's workflow stays open."""

    reported: tuple[str, ...] = (VICTIM,)
    """The orders that must be reported: the victim, an order that was never placed, or all."""


# --- Broken gateways --------------------------------------------------------------


class ForwardingPayments:
    """Forwards all calls; mutants override one."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    @property
    def guarantees(self) -> Guarantees:
        return self._provider.guarantees

    async def create(self, payment: Payment) -> str | None:
        return await self._provider.create(payment)

    async def charge(self, payment: Payment) -> None:
        await self._provider.charge(payment)

    async def refund(self, payment: Payment) -> RefundOutcome:
        return await self._provider.refund(payment)

    def ledger(self, since: datetime) -> AsyncIterator[LedgerEntry]:
        return self._provider.ledger(since)


class ChargesTwice(ForwardingPayments):
    """Charges with a second idempotency key, as a retry with a new key would."""

    async def charge(self, payment: Payment) -> None:
        await super().charge(payment)
        if is_victim(payment.order_id):
            await super().charge(replace(payment, payment_id=f"{payment.payment_id}-again"))


class ChargesTooMuch(ForwardingPayments):
    async def charge(self, payment: Payment) -> None:
        wrong = payment.amount_cents + is_victim(payment.order_id)
        await super().charge(replace(payment, amount_cents=wrong))


class ChargesOtherCurrency(ForwardingPayments):
    async def charge(self, payment: Payment) -> None:
        currency = "EUR" if is_victim(payment.order_id) else payment.currency
        await super().charge(replace(payment, currency=currency))


class SkipsCharge(ForwardingPayments):
    """Reports a charge without calling the provider."""

    async def charge(self, payment: Payment) -> None:
        if not is_victim(payment.order_id):
            await super().charge(payment)


class ChargesUnknownOrder(ForwardingPayments):
    """Charges for an order that was never placed as well."""

    async def charge(self, payment: Payment) -> None:
        await super().charge(payment)
        if is_victim(payment.order_id):
            unplaced = payment.order_id.replace(VICTIM, UNPLACED)
            await super().charge(replace(payment, payment_id=f"pay-{unplaced}", order_id=unplaced))


class ForgetsRefunds(ForwardingPayments):
    async def refund(self, payment: Payment) -> RefundOutcome:
        if is_victim(payment.order_id):
            return RefundOutcome.REFUNDED
        return await super().refund(payment)


class ForwardingWarehouse:
    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    @property
    def guarantees(self) -> Guarantees:
        return self._warehouse.guarantees

    async def check_stock(self, order_id: str, items: list[Item]) -> None:
        await self._warehouse.check_stock(order_id, items)

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None:
        await self._warehouse.pack(package_key, order_id, items)

    async def unpack(self, package_key: str, order_id: str) -> None:
        await self._warehouse.unpack(package_key, order_id)

    def packages(self, since: datetime) -> AsyncIterator[PackageRecord]:
        return self._warehouse.packages(since)


class ForgetsToUnpack(ForwardingWarehouse):
    async def unpack(self, package_key: str, order_id: str) -> None:
        if not is_victim(order_id):
            await super().unpack(package_key, order_id)


class ForwardingCarrier:
    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    @property
    def guarantees(self) -> Guarantees:
        return self._carrier.guarantees

    async def check_address(self, order_id: str, address: Address) -> None:
        await self._carrier.check_address(order_id, address)

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        return await self._carrier.dispatch(shipment_key, order_id, address, label_version)

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        await self._carrier.cancel_shipment(shipment_key, order_id)

    def parcels(self, since: datetime) -> AsyncIterator[ParcelRecord]:
        return self._carrier.parcels(since)


class PrintsOldLabels(ForwardingCarrier):
    """Prints the order's first address on the label."""

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        printed = ADDRESS if is_victim(order_id) else address
        return await super().dispatch(shipment_key, order_id, printed, label_version)


def with_gateways(
    *,
    payments: Callable[[PaymentProvider], PaymentProvider] | None = None,
    warehouse: Callable[[Warehouse], Warehouse] | None = None,
    carrier: Callable[[Carrier], Carrier] | None = None,
) -> ActivitySetFactory:
    """Return the activities of the product with broken gateways."""

    def open_activities(
        repository: OrderRepository, faults: FaultInjector, gateways: Gateways
    ) -> ActivitySet:
        broken = Gateways(
            payments=payments(gateways.payments) if payments else gateways.payments,
            warehouse=warehouse(gateways.warehouse) if warehouse else gateways.warehouse,
            carrier=carrier(gateways.carrier) if carrier else gateways.carrier,
        )
        return ActivitySet.create(repository, faults, broken)

    return open_activities


# --- Broken repositories --------------------------------------------------------------------


class MutantRepository(OrderRepository):
    """An order repository whose pool is accessible to mutants."""

    def __init__(self, database: Database, worker: str, temporal: TemporalNamespace) -> None:
        super().__init__(database, worker, temporal)
        self.pool = database


class DropsOrders(MutantRepository):
    """Deletes the row of an order whose start was acknowledged."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await self.pool.execute("delete from orders where order_id = %(id)s", {"id": order_id})
        return snapshot


class DropsEveryOrder(MutantRepository):
    """Deletes the rows of all orders, so that nothing of the run is left."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        await self.pool.execute("delete from orders where order_id = %(id)s", {"id": order_id})
        return snapshot


class OpensTwice(MutantRepository):
    """Accepts a second run of the same order."""

    async def insert_order(self, order: NewOrder) -> bool:
        inserted = await super().insert_order(order)
        return inserted or is_victim(order.order_id)


class AcceptsTwice(MutantRepository):
    """Writes the acceptance event twice."""

    async def insert_order(self, order: NewOrder) -> bool:
        inserted = await super().insert_order(order)
        if is_victim(order.order_id):
            await self.pool.execute(
                "insert into events (order_id, at, kind, state)"
                " values (%(id)s, %(at)s, 'accepted', 'received')",
                {"id": order.order_id, "at": order.accepted_at},
            )
        return inserted


class WritesTwoOutcomes(MutantRepository):
    """Writes two different outcome events."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await add_event(self.pool, order_id, "outcome", State.FAILED)
        return snapshot


class WritesLongAgo(MutantRepository):
    """Dates the victim's outcome back by a minute: the audit allows a workflow a few seconds to close."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            # The trigger of table orders would reject it.
            await self.pool.execute(
                "do $$ begin set local session_replication_role = replica;"
                " update orders set finished_at = clock_timestamp() - interval '1 minute'"
                f" where order_id = '{order_id}'; end $$"
            )
        return snapshot


class WritesAfterTheOutcome(MutantRepository):
    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await add_event(self.pool, order_id, "signal", snapshot.state)
        return snapshot


class SkipsAState(MutantRepository):
    """Writes an event of state prepared before the review."""

    async def insert_order(self, order: NewOrder) -> bool:
        inserted = await super().insert_order(order)
        if is_victim(order.order_id):
            await add_event(self.pool, order.order_id, "state", State.PREPARED)
        return inserted


class CompletesALostAttempt(MutantRepository):
    """Completes the charge with an attempt that another worker has closed as lost."""

    async def complete_step(
        self, order_id: str, step: Step, ended: AttemptResult, label_version: int | None = None
    ) -> bool:
        if is_victim(order_id) and step is Step.CHARGE:
            await self.start_next_attempt(order_id, step)
            await self.pool.execute(
                "update step_attempts set attempt = attempt - 1 where order_id = %(id)s and step = 'charge'",
                {"id": order_id},
            )
        return await super().complete_step(order_id, step, ended, label_version)


class IgnoresCancellations(MutantRepository):
    """Accepts a cancellation without aborting the order."""

    async def abort(
        self,
        order_id: str,
        reason: Reason,
        by: str,
        message: str = "",
        *,
        signal: str | None = None,
        **others: Any,
    ) -> RequestResult:
        if not is_victim(order_id) or signal is None:
            return await super().abort(order_id, reason, by, message, signal=signal, **others)
        await self.record_request(order_id, signal, accepted=True, reason=reason.value)
        return RequestResult(True, "the order is being cancelled", State.IN_REVIEW)


class ForgetsAddresses(MutantRepository):
    """Accepts an address change without storing it."""

    async def change_address(
        self, order_id: str, address: Address, by: str, *, request_id: str | None = None, **others: Any
    ) -> RequestResult:
        if not is_victim(order_id):
            return await super().change_address(order_id, address, by, request_id=request_id, **others)
        await self.record_request(order_id, "update_address", accepted=True, new_address=vars(address))
        return RequestResult(True, "the address is changed", State.IN_REVIEW)


async def add_event(pool: Database, order_id: str, kind: str, state: State) -> None:
    """Insert an event directly after the order's last one."""
    await pool.execute(
        "insert into events (order_id, at, kind, state, detail)"
        " select order_id, last_event_at + interval '1 microsecond', %(kind)s, %(state)s, '{}'"
        " from orders where order_id = %(id)s",
        {"id": order_id, "kind": kind, "state": state.value},
    )


# --- Broken activities -------------------------------------------------------------------------


class ReturnsAnotherOutcome(OrderActivities):
    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        return replace(result, outcome=State.FAILED) if is_victim(request.order_id) else result


class ReturnsAnotherReason(OrderActivities):
    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        is_wrong = is_victim(request.order_id)
        return replace(result, reason=Reason.CUSTOMER_CANCELLED) if is_wrong else result


class ReturnsWithoutStoring(OrderActivities):
    """Returns an outcome that it does not store."""

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        if is_victim(request.order_id):
            return OrderResult(request.order_id, request.outcome, None, 0)
        return await super().finish(request)


class StoresWithoutReturning(OrderActivities):
    """Stores the outcome and fails, so that the workflow stays open."""

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        if is_victim(request.order_id):
            raise RuntimeError("the response is lost")
        return result


class ChargesWhenValidating(OrderActivities):
    """Charges before the review."""

    @activity.defn(name=Activity.VALIDATE)
    async def validate(self, request: StepRequest) -> StepResult:
        result = await super().validate(request)
        if is_victim(request.order_id):
            await charge_in_full(self._gateways, request.order_id)
        return result


class ChargesTheRejected(OrderActivities):
    """Charges after a rejection."""

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        answer = await super().abort(request)
        if is_victim(request.order_id):
            await charge_in_full(self._gateways, request.order_id)
        return answer


async def charge_in_full(gateways: Gateways, order_id: str) -> None:
    amount_cents = sum(item.price_cents for item in SAMPLE_ITEMS)
    await gateways.payments.charge(Payment(f"pay-{order_id}", order_id, amount_cents))


def with_order_activities(broken: type[OrderActivities]) -> ActivitySetFactory:
    def open_activities(
        repository: OrderRepository, faults: FaultInjector, gateways: Gateways
    ) -> ActivitySet:
        activities = ActivitySet.create(repository, faults, gateways)
        return replace(activities, orders=broken(repository, StepRunner(repository, faults), gateways))

    return open_activities


MUTANTS = (
    Mutant("drops an order", {1}, repository=DropsOrders),
    # Rejected orders have no entry in the provider ledger either.
    Mutant(
        "drops every order of the run",
        {1},
        Scenario.REJECTED,
        repository=DropsEveryOrder,
        reported=(HEALTHY, VICTIM),
    ),
    Mutant("runs an order twice", {1}, Scenario.STARTED_AGAIN, repository=OpensTwice),
    Mutant("accepts an order twice", {1}, repository=AcceptsTwice),
    Mutant("reports another outcome", {2}, activities=with_order_activities(ReturnsAnotherOutcome)),
    Mutant(
        "reports another reason",
        {2},
        Scenario.REJECTED,
        activities=with_order_activities(ReturnsAnotherReason),
    ),
    Mutant(
        "returns an outcome that it did not store",
        {2},
        activities=with_order_activities(ReturnsWithoutStoring),
    ),
    Mutant("writes two outcomes", {2}, repository=WritesTwoOutcomes),
    Mutant(
        "leaves the workflow running after the outcome",
        {2},
        repository=WritesLongAgo,
        activities=with_order_activities(StoresWithoutReturning),
        leaves_running=True,
    ),
    Mutant("charges twice", {3}, activities=with_gateways(payments=ChargesTwice)),
    Mutant("charges the wrong amount", {3, 8}, activities=with_gateways(payments=ChargesTooMuch)),
    Mutant("charges in another currency", {3}, activities=with_gateways(payments=ChargesOtherCurrency)),
    Mutant(
        "forgets a refund", {4}, Scenario.UNDELIVERABLE, activities=with_gateways(payments=ForgetsRefunds)
    ),
    Mutant(
        "forgets a recall", {4}, Scenario.UNDELIVERABLE, activities=with_gateways(warehouse=ForgetsToUnpack)
    ),
    Mutant("skips the charge at the provider", {5}, activities=with_gateways(payments=SkipsCharge)),
    Mutant(
        "charges without an order",
        {5},
        activities=with_gateways(payments=ChargesUnknownOrder),
        reported=(UNPLACED,),
    ),
    Mutant(
        "ships after an accepted cancellation",
        {6},
        Scenario.CANCELLED_IN_REVIEW,
        repository=IgnoresCancellations,
    ),
    Mutant("forgets an accepted address", {6}, Scenario.MOVED_IN_REVIEW, repository=ForgetsAddresses),
    Mutant(
        "prints the old address",
        {3, 6},
        Scenario.MOVED_IN_REVIEW,
        activities=with_gateways(carrier=PrintsOldLabels),
    ),
    Mutant("writes an event after the outcome", {7}, repository=WritesAfterTheOutcome),
    Mutant("skips a state", {7}, repository=SkipsAState),
    Mutant("completes a step with a lost attempt", {7}, repository=CompletesALostAttempt),
    Mutant("charges before the approval", {9}, activities=with_order_activities(ChargesWhenValidating)),
    Mutant(
        "charges after a rejection",
        {9},
        Scenario.REJECTED,
        activities=with_order_activities(ChargesTheRejected),
    ),
)
