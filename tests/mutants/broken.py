"""Shops that break one promise each, for one order only: the victim, whose id ends in VICTIM.

Every mutant is the product itself with one part replaced; the part does wrong what a plausible bug would.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from temporalio import activity

from db.database import Database
from db.domain import SAMPLE_ITEMS, Address, Item, Reason, State
from db.orders import NewOrder, OrderRepository, OrderSnapshot, RequestDecision
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.step_runner import StepRunner
from orchestrator.gateways.fault_injection import ProfileFaultInjector
from orchestrator.gateways.protocols import (
    Carrier,
    Gateways,
    PaymentProvider,
    RefundOutcome,
    Warehouse,
)
from orchestrator.messages import (
    AbortRequest,
    Activity,
    FinishRequest,
    OrderResult,
    RequestResult,
    StepRequest,
    StepResult,
)
from orchestrator.worker.activity_set import ActivitySet
from tests.orders import ADDRESS
from tests.shop import ActivitySetFactory

HEALTHY = "healthy"
VICTIM = "victim"
STRANGER = "stranger"


def is_victim(order_id: str) -> bool:
    return order_id.endswith(VICTIM)


class Scenario(StrEnum):
    """What happens to both orders, the victim and the healthy one beside it."""

    PLAIN = "plain"
    UNDELIVERABLE = "undeliverable"
    """The carrier declines the parcel, so the order is refunded and recalled."""

    CANCELLED_IN_REVIEW = "cancelled in review"
    """A customer cancels while a person reviews; the person, who knows nothing of it, approves."""

    MOVED_IN_REVIEW = "moved in review"
    """The address changes while a person reviews, then the person approves."""

    REJECTED = "rejected"
    STARTED_AGAIN = "started again"
    """The same order id is started again after its outcome, past the API."""


@dataclass(frozen=True)
class Mutant:
    """A broken variant, and the invariants that must name its victim."""

    name: str
    breaks: set[int]
    scenario: Scenario = Scenario.PLAIN
    repository: Callable[[Database, str], OrderRepository] = OrderRepository
    activities: ActivitySetFactory = ActivitySet.create
    leaves_running: bool = False
    """Whether the victim's workflow never closes."""

    blamed: tuple[str, ...] = (VICTIM,)
    """The orders that must be named: the victim, one that nobody placed, or all there are."""


# --- The outside, lied to or not asked --------------------------------------------------------------


class PassedOnPayments:
    """The provider as it is; mutants override one call."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        await self._provider.charge(payment_id, order_id, amount_cents)

    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        return await self._provider.refund(payment_id, order_id)


class ChargesTwice(PassedOnPayments):
    """A second idempotency key, as a retry with a fresh key would use."""

    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        await super().charge(payment_id, order_id, amount_cents)
        if is_victim(order_id):
            await super().charge(f"{payment_id}-again", order_id, amount_cents)


class ChargesTooMuch(PassedOnPayments):
    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        await super().charge(payment_id, order_id, amount_cents + is_victim(order_id))


class ChargesNobody(PassedOnPayments):
    """Our books will say charged; the provider was never called."""

    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        if not is_victim(order_id):
            await super().charge(payment_id, order_id, amount_cents)


class ChargesSomebodyElse(PassedOnPayments):
    """Besides the victim's own charge there is one for an order that nobody placed."""

    async def charge(self, payment_id: str, order_id: str, amount_cents: int) -> None:
        await super().charge(payment_id, order_id, amount_cents)
        if is_victim(order_id):
            stranger = order_id.replace(VICTIM, STRANGER)
            await super().charge(f"pay-{stranger}", stranger, amount_cents)


class ForgetsRefunds(PassedOnPayments):
    async def refund(self, payment_id: str, order_id: str) -> RefundOutcome:
        if is_victim(order_id):
            return RefundOutcome.REFUNDED
        return await super().refund(payment_id, order_id)


class PassedOnWarehouse:
    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    async def check_stock(self, items: list[Item]) -> None:
        await self._warehouse.check_stock(items)

    async def pack(self, package_key: str, order_id: str, items: list[Item]) -> None:
        await self._warehouse.pack(package_key, order_id, items)

    async def unpack(self, package_key: str, order_id: str) -> None:
        await self._warehouse.unpack(package_key, order_id)


class ForgetsToUnpack(PassedOnWarehouse):
    async def unpack(self, package_key: str, order_id: str) -> None:
        if not is_victim(order_id):
            await super().unpack(package_key, order_id)


class PassedOnCarrier:
    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    async def check_address(self, address: Address) -> None:
        await self._carrier.check_address(address)

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        return await self._carrier.dispatch(shipment_key, order_id, address, label_version)

    async def cancel_shipment(self, shipment_key: str, order_id: str) -> None:
        await self._carrier.cancel_shipment(shipment_key, order_id)


class PrintsOldLabels(PassedOnCarrier):
    """The label shows the address that the order came with."""

    async def dispatch(self, shipment_key: str, order_id: str, address: Address, label_version: int) -> str:
        shown = ADDRESS if is_victim(order_id) else address
        return await super().dispatch(shipment_key, order_id, shown, label_version)


def with_outside(
    *,
    payments: Callable[[PaymentProvider], PaymentProvider] | None = None,
    warehouse: Callable[[Warehouse], Warehouse] | None = None,
    carrier: Callable[[Carrier], Carrier] | None = None,
) -> ActivitySetFactory:
    """The product's own desks, dealing with broken parties."""

    def open_activities(
        repository: OrderRepository, faults: ProfileFaultInjector, gateways: Gateways
    ) -> ActivitySet:
        broken = Gateways(
            payments=payments(gateways.payments) if payments else gateways.payments,
            warehouse=warehouse(gateways.warehouse) if warehouse else gateways.warehouse,
            carrier=carrier(gateways.carrier) if carrier else gateways.carrier,
        )
        return ActivitySet.create(repository, faults, broken)

    return open_activities


# --- Database that are kept wrongly --------------------------------------------------------------------


class OpenDatabase(OrderRepository):
    """The books with their pool within a mutant's reach."""

    def __init__(self, repository: Database, worker: str) -> None:
        super().__init__(repository, worker)
        self.pool = repository


class DropsOrders(OpenDatabase):
    """The order's row disappears although its start was acknowledged."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await self.pool.execute("delete from orders where order_id = %(id)s", {"id": order_id})
        return snapshot


class DropsEveryOrder(OpenDatabase):
    """The rows of all orders disappear, so that the books know nothing of the run."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        await self.pool.execute("delete from orders where order_id = %(id)s", {"id": order_id})
        return snapshot


class OpensTwice(OpenDatabase):
    """A second run of the same order is let in."""

    async def insert_order(self, order: NewOrder) -> bool:
        is_ours = await super().insert_order(order)
        return is_ours or is_victim(order.order_id)


class AcceptsTwice(OpenDatabase):
    """The acceptance is written down twice."""

    async def insert_order(self, order: NewOrder) -> bool:
        is_ours = await super().insert_order(order)
        if is_victim(order.order_id):
            await self.pool.execute(
                "insert into events (order_id, at, kind, state)"
                " values (%(id)s, %(at)s, 'accepted', 'received')",
                {"id": order.order_id, "at": order.accepted_at},
            )
        return is_ours


class WritesTwoOutcomes(OpenDatabase):
    """The outcome is written down twice, and not the same."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await add_event(self.pool, order_id, "outcome", State.FAILED)
        return snapshot


class WritesLongAgo(OpenDatabase):
    """The victim's outcome came a minute ago: a workflow is given some seconds to close."""

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            # The books' own trigger would refuse it.
            await self.pool.execute(
                "do $$ begin set local session_replication_role = replica;"
                " update orders set finished_at = clock_timestamp() - interval '1 minute'"
                f" where order_id = '{order_id}'; end $$"
            )
        return snapshot


class WritesAfterTheOutcome(OpenDatabase):
    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        snapshot = await super().finish(order_id, outcome)
        if is_victim(order_id):
            await add_event(self.pool, order_id, "signal", snapshot.state)
        return snapshot


class SkipsAState(OpenDatabase):
    """The events jump: the order is told to be prepared before it was reviewed."""

    async def insert_order(self, order: NewOrder) -> bool:
        is_ours = await super().insert_order(order)
        if is_victim(order.order_id):
            await add_event(self.pool, order.order_id, "state", State.PREPARED)
        return is_ours


class IgnoresCancellations(OpenDatabase):
    """The customer is told that the order is cancelled; nothing turns it back."""

    async def abort(
        self,
        order_id: str,
        reason: Reason,
        by: str,
        message: str = "",
        *,
        signal: str | None = None,
        request_id: str | None = None,
    ) -> RequestDecision:
        if not is_victim(order_id) or signal is None:
            return await super().abort(order_id, reason, by, message, signal=signal, request_id=request_id)
        await self.record_request(order_id, signal, accepted=True, reason=reason.value)
        return RequestDecision(True, "the order is being cancelled", State.IN_REVIEW)


class ForgetsAddresses(OpenDatabase):
    """The customer is told that the address is changed; the books keep the old one."""

    async def change_address(
        self, order_id: str, address: Address, by: str, *, request_id: str | None = None
    ) -> RequestDecision:
        if not is_victim(order_id):
            return await super().change_address(order_id, address, by, request_id=request_id)
        await self.record_request(order_id, "update_address", accepted=True, new_address=vars(address))
        return RequestDecision(True, "the address is changed", State.IN_REVIEW)


async def add_event(pool: Database, order_id: str, kind: str, state: State) -> None:
    """Writes an event just after the order's last one, as no statement of the product does."""
    await pool.execute(
        "insert into events (order_id, at, kind, state, detail)"
        " select order_id, last_event_at + interval '1 microsecond', %(kind)s, %(state)s, '{}'"
        " from orders where order_id = %(id)s",
        {"id": order_id, "kind": kind, "state": state.value},
    )


# --- ActivitySet that act wrongly -------------------------------------------------------------------------


class ReportsAnotherOutcome(OrderActivities):
    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        return replace(result, outcome=State.FAILED) if is_victim(request.order_id) else result


class ReportsAnotherReason(OrderActivities):
    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        is_wrong = is_victim(request.order_id)
        return replace(result, reason=Reason.CUSTOMER_CANCELLED) if is_wrong else result


class ReportsWithoutWriting(OrderActivities):
    """The workflow closes with an outcome that the books never hear of."""

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        if is_victim(request.order_id):
            return OrderResult(request.order_id, request.outcome, None, 0)
        return await super().finish(request)


class WritesWithoutAnswering(OrderActivities):
    """The outcome is in the books, and the workflow never hears of it, so that it runs on."""

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        result = await super().finish(request)
        if is_victim(request.order_id):
            raise RuntimeError("the answer is lost, again and again")
        return result


class ChargesWhenValidating(OrderActivities):
    """The money is taken before the review."""

    @activity.defn(name=Activity.VALIDATE)
    async def validate(self, request: StepRequest) -> StepResult:
        result = await super().validate(request)
        if is_victim(request.order_id):
            await charge_in_full(self._gateways, request.order_id)
        return result


class ChargesTheRejected(OrderActivities):
    """The money is taken although the reviewer said no."""

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        answer = await super().abort(request)
        if is_victim(request.order_id):
            await charge_in_full(self._gateways, request.order_id)
        return answer


async def charge_in_full(gateways: Gateways, order_id: str) -> None:
    amount_cents = sum(item.price_cents for item in SAMPLE_ITEMS)
    await gateways.payments.charge(f"pay-{order_id}", order_id, amount_cents)


def with_order_desk(broken: type[OrderActivities]) -> ActivitySetFactory:
    def open_activities(
        repository: OrderRepository, faults: ProfileFaultInjector, gateways: Gateways
    ) -> ActivitySet:
        activities = ActivitySet.create(repository, faults, gateways)
        return replace(activities, orders=broken(repository, StepRunner(repository, faults), gateways))

    return open_activities


MUTANTS = (
    Mutant("drops an order", {1}, repository=DropsOrders),
    # Rejected, because then not even the provider's ledger knows of them.
    Mutant(
        "drops every order of the run",
        {1},
        Scenario.REJECTED,
        repository=DropsEveryOrder,
        blamed=(HEALTHY, VICTIM),
    ),
    Mutant("carries an order out twice", {1}, Scenario.STARTED_AGAIN, repository=OpensTwice),
    Mutant("accepts an order twice", {1}, repository=AcceptsTwice),
    Mutant("reports another outcome", {2}, activities=with_order_desk(ReportsAnotherOutcome)),
    Mutant(
        "reports another reason", {2}, Scenario.REJECTED, activities=with_order_desk(ReportsAnotherReason)
    ),
    Mutant("reports an outcome it never wrote", {2}, activities=with_order_desk(ReportsWithoutWriting)),
    Mutant("writes two outcomes", {2}, repository=WritesTwoOutcomes),
    Mutant(
        "leaves the workflow running after the outcome",
        {2},
        repository=WritesLongAgo,
        activities=with_order_desk(WritesWithoutAnswering),
        leaves_running=True,
    ),
    Mutant("charges twice", {3}, activities=with_outside(payments=ChargesTwice)),
    Mutant("charges the wrong amount", {3, 8}, activities=with_outside(payments=ChargesTooMuch)),
    Mutant("forgets a refund", {4}, Scenario.UNDELIVERABLE, activities=with_outside(payments=ForgetsRefunds)),
    Mutant(
        "forgets a recall", {4}, Scenario.UNDELIVERABLE, activities=with_outside(warehouse=ForgetsToUnpack)
    ),
    Mutant("keeps payments off the ledger", {5}, activities=with_outside(payments=ChargesNobody)),
    Mutant(
        "charges without an order",
        {5},
        activities=with_outside(payments=ChargesSomebodyElse),
        blamed=(STRANGER,),
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
        activities=with_outside(carrier=PrintsOldLabels),
    ),
    Mutant("writes an event after the outcome", {7}, repository=WritesAfterTheOutcome),
    Mutant("skips a state", {7}, repository=SkipsAState),
    Mutant("charges before the approval", {9}, activities=with_order_desk(ChargesWhenValidating)),
    Mutant(
        "charges after a rejection", {9}, Scenario.REJECTED, activities=with_order_desk(ChargesTheRejected)
    ),
)
