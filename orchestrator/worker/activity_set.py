"""The activities that worker processes register."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from db.domain import Step
from db.orders import OrderRepository
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_batch import StepBatchActivity
from orchestrator.activities.step_runner import AttemptObserver, StepRunner
from orchestrator.gateways.fault_injection import FaultInjector
from orchestrator.gateways.protocols import Gateways
from orchestrator.observability.tracing import Tracing
from orchestrator.worker.metrics import WorkerMetrics

ActivityMethods = Sequence[Callable[..., Any]]


class WorkerActivities(Protocol):
    """The activities of both kinds of workers; `orchestrator.testing` has an in-memory implementation."""

    @property
    def for_order_worker(self) -> ActivityMethods: ...

    @property
    def for_shipping_worker(self) -> ActivityMethods: ...


@dataclass(frozen=True)
class ActivitySet:
    """The activities that write to the order database and call the gateways."""

    orders: OrderActivities
    payments: PaymentActivities
    shipping: ShippingActivities

    @classmethod
    def create(
        cls,
        repository: OrderRepository,
        fault_injector: FaultInjector,
        gateways: Gateways,
        metrics: WorkerMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> "ActivitySet":
        metrics = metrics or WorkerMetrics()
        observers: list[AttemptObserver] = [metrics.attempt_ended]
        if tracing is not None:
            observers.append(tracing.attempt_ended)
        steps = StepRunner(repository, fault_injector, observers)
        return cls(
            orders=OrderActivities(repository, steps, gateways, metrics.order_finished),
            payments=PaymentActivities(steps, gateways.payments),
            shipping=ShippingActivities(steps, gateways),
        )

    @property
    def for_order_worker(self) -> ActivityMethods:
        batch = StepBatchActivity(
            {
                Step.RECEIVE: self.orders.receive,
                Step.VALIDATE: self.orders.validate,
                Step.CHARGE: self.payments.charge,
                Step.REFUND: self.payments.refund,
                Step.RECALL: self.shipping.recall,
            },
            open_order=self.orders.open,
            approve=self.orders.approve,
        )
        return [
            batch.run_batch,
            self.orders.open,
            self.orders.receive,
            self.orders.validate,
            self.orders.approve,
            self.orders.change_address,
            self.orders.abort,
            self.orders.record_request_event,
            self.orders.finish,
            self.payments.charge,
            self.payments.refund,
            # Not in the shipping worker: a recall must work while no shipping worker runs.
            self.shipping.recall,
        ]

    @property
    def for_shipping_worker(self) -> ActivityMethods:
        batch = StepBatchActivity(
            {Step.PREPARE: self.shipping.prepare, Step.DISPATCH: self.shipping.dispatch}
        )
        return [batch.run_batch, self.shipping.prepare, self.shipping.dispatch]
