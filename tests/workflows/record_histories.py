"""Records the histories of `test_replay.py`: `python -m tests.workflows.record_histories [SCENARIO ...]`.

Starts Temporal and PostgreSQL, runs one order per scenario through real workers, and writes the histories to
`histories/`. Run it, and review the change, when a workflow changes on purpose in a way that running orders
need not survive: with the names of the affected scenarios, or without names for all.
"""

import asyncio
import base64
import itertools
import json
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from db.database import Database
from db.domain import ExecutionMode, Reason, ReviewMode, State, Step
from db.orders import OrderRepository
from orchestrator.embedded.layout import packaged_program
from orchestrator.gateways.fault_injection import (
    Call,
    FaultInjector,
    FaultProfile,
    Rates,
    named_profile,
)
from orchestrator.messages.ids import order_workflow_id, reconcile_workflow_id, shipping_workflow_id
from orchestrator.messages.orders import OrderRequest, OrderResult, ReconcileRequest
from orchestrator.worker.factory import ActivitySet, compensation_worker, order_worker, shipping_worker
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.orders import ADDRESS, OTHER_ADDRESS, TEMPORAL
from tests.servers import postgres_server
from tests.shop import simulated_gateways

HISTORIES = Path(__file__).parent / "histories"
IDENTITY = "recorder"
ORDER_QUEUE = "order-tq"
SHIPPING_QUEUE = "shipping-tq"
SHORT_LIMIT_SECONDS = 8.0

T = TypeVar("T")
Handle = WorkflowHandle[OrderWorkflow, OrderResult]


class FaultsByOrder(FaultInjector):
    """The fault injector of all workers: it selects the fault profile by order."""

    def __init__(self) -> None:
        super().__init__(named_profile("none"))
        self.profiles: dict[str, FaultProfile] = {}

    async def call(self, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        profile = self.profiles.get(call.order_id, self.profile)
        return await FaultInjector(profile).call(call, work)


@dataclass(frozen=True)
class Recorder:
    client: Client
    pool: Database

    async def wait_until(self, order_id: str, state: State) -> None:
        async with asyncio.timeout(30):
            while await self._state(order_id) is not state:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _state(self, order_id: str) -> State | None:
        row = await self.pool.fetch_one("select state from orders where order_id = %(id)s", {"id": order_id})
        return State(row["state"]) if row else None


async def do_nothing(recorder: Recorder, handle: Handle, order_id: str) -> None:
    return None


async def cancel_in_review(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.IN_REVIEW)
    await handle.execute_update("cancel_order", {"reason": "changed my mind", "cancelled_by": "customer"})


async def cancel_once_charged(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.CHARGED)
    await handle.signal("CancelOrder", {"reason": "changed my mind", "cancelled_by": "customer"})


async def reject(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.IN_REVIEW)
    await handle.signal("RejectOrder", {"reviewer": "bob", "reason": "looks odd"})


async def change_address_and_approve(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.IN_REVIEW)
    address = {"street": OTHER_ADDRESS.street, "city": OTHER_ADDRESS.city, "state": "IL", "zip": "62565"}
    await handle.execute_update("update_address", {"new_address": address, "updated_by": "customer"})
    await handle.execute_update("approve_order", {"reviewer": "eve"})


async def cancel_the_workflow(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.CHARGED)
    await handle.cancel()


async def terminate_the_workflow(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.CHARGED)
    # Not before the shipment has started: a child whose parent closes before is never started.
    await _started_shipment(recorder, order_id)
    await handle.terminate("by an operator")


async def terminate_the_shipment(recorder: Recorder, handle: Handle, order_id: str) -> None:
    await recorder.wait_until(order_id, State.CHARGED)
    await (await _started_shipment(recorder, order_id)).terminate("by an operator")


@dataclass(frozen=True)
class Scenario:
    """One order, what happens to it, and its expected outcome."""

    name: str
    outcome: State
    reason: Reason | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    faults: FaultProfile = field(default_factory=lambda: named_profile("none"))
    while_running: Callable[[Recorder, Handle, str], Awaitable[None]] = do_nothing

    @property
    def order_id(self) -> str:
        return f"history-{self.name}"

    def order(self) -> OrderRequest:
        order_id = self.order_id
        return OrderRequest(
            **{
                "order_id": order_id,
                "initial_address": ADDRESS,
                "payment_id": f"payment-{order_id}",
                "requested_at": datetime.now(UTC),
                "auto_review_seconds": 0.2,
                **self.changes,
            }
        )


def always(step: Step, **rates: float) -> FaultProfile:
    return FaultProfile("custom", 1, Rates(), {step: Rates(**rates)})


def faulty_first(name: str, step: Step, fault: str, times: int) -> FaultProfile:
    """A profile whose seed makes the first `times` attempts of one step fail, and the next one succeed."""
    call_is_faulty = [True] * times + [False]
    for seed in range(10_000):
        profile = FaultProfile("custom", seed, Rates(), {step: Rates(**{fault: 0.5})})
        point = FaultInjector(profile)
        calls = [Call(f"history-{name}", step, attempt) for attempt in range(1, times + 2)]
        if [point._draw(call, "fault") < 0.5 for call in calls] == call_is_faulty:
            return profile
    raise AssertionError("no such seed")


SHORT = {"limit_seconds": SHORT_LIMIT_SECONDS}
MANUAL = {"review": ReviewMode.MANUAL}
VISIBLE = {"execution": ExecutionMode.VISIBLE, "limit_seconds": 60.0}
"""A retry of this server takes up to a second, so under faults 15 s would be too short."""
SCENARIOS = [
    Scenario("completed", State.COMPLETED),
    Scenario("completed-under-faults", State.COMPLETED, faults=named_profile("assignment", seed=1)),
    Scenario(
        "completed-by-a-person", State.COMPLETED, changes=MANUAL, while_running=change_address_and_approve
    ),
    Scenario(
        "completed-shipped-again",
        State.COMPLETED,
        faults=faulty_first("completed-shipped-again", Step.PREPARE, "hang", 5),
        while_running=terminate_the_shipment,
    ),
    # Long enough for the charge to continue as a regular activity.
    Scenario(
        "completed-after-a-long-charge",
        State.COMPLETED,
        faults=faulty_first("completed-after-a-long-charge", Step.CHARGE, "hang", 6),
    ),
    Scenario(
        "visible-completed-under-faults",
        State.COMPLETED,
        changes=VISIBLE,
        faults=named_profile("assignment", seed=1),
    ),
    Scenario(
        "visible-cancelled-after-charge",
        State.CANCELLED,
        Reason.CUSTOMER_CANCELLED,
        changes=VISIBLE,
        faults=always(Step.PREPARE, hang=1.0),
        while_running=cancel_once_charged,
    ),
    Scenario(
        "cancelled-before-charge",
        State.CANCELLED,
        Reason.CUSTOMER_CANCELLED,
        changes=MANUAL,
        while_running=cancel_in_review,
    ),
    Scenario(
        "cancelled-after-charge",
        State.CANCELLED,
        Reason.CUSTOMER_CANCELLED,
        faults=always(Step.PREPARE, hang=1.0),
        while_running=cancel_once_charged,
    ),
    Scenario(
        "review-rejected", State.CANCELLED, Reason.REVIEW_REJECTED, changes=MANUAL, while_running=reject
    ),
    Scenario("review-expired", State.CANCELLED, Reason.REVIEW_EXPIRED, changes={**MANUAL, **SHORT}),
    Scenario(
        "payment-declined",
        State.FAILED,
        Reason.PAYMENT_DECLINED,
        faults=always(Step.CHARGE, decline=1.0),
    ),
    Scenario(
        "validation-failed",
        State.FAILED,
        Reason.VALIDATION_FAILED,
        faults=always(Step.VALIDATE, decline=1.0),
    ),
    Scenario("deadline", State.FAILED, Reason.DEADLINE, changes=SHORT, faults=always(Step.PREPARE, hang=1.0)),
    Scenario(
        "shipping-failed",
        State.FAILED,
        Reason.SHIPPING_FAILED,
        changes=SHORT,
        faults=always(Step.DISPATCH, decline=1.0),
    ),
    Scenario(
        "workflow-cancelled",
        State.FAILED,
        Reason.TERMINATED,
        faults=always(Step.PREPARE, hang=1.0),
        while_running=cancel_the_workflow,
    ),
    Scenario(
        "workflow-terminated",
        State.FAILED,
        Reason.TERMINATED,
        faults=always(Step.PREPARE, hang=1.0),
        while_running=terminate_the_workflow,
    ),
]


async def record(scenario: Scenario, recorder: Recorder) -> dict[str, str]:
    """Run one scenario and return its histories by file name."""
    client, order = recorder.client, scenario.order()
    handle = await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=order_workflow_id(order.order_id),
        task_queue=ORDER_QUEUE,
        task_timeout=WORKFLOW_TASK_TIMEOUT,
    )
    await scenario.while_running(recorder, handle, order.order_id)
    ids = {"order": handle.id}
    if scenario.while_running is terminate_the_workflow:
        reconcile_id = reconcile_workflow_id(order.order_id)
        ids["reconcile"] = reconcile_id
        result = await client.execute_workflow(
            ReconcileWorkflow.run,
            ReconcileRequest(order.order_id, "terminated"),
            id=reconcile_id,
            task_queue=ORDER_QUEUE,
        )
    else:
        result = await handle.result()
    if (result.outcome, result.reason) != (scenario.outcome, scenario.reason):
        raise AssertionError(f"{scenario.name} ended as {result}")
    for n in itertools.count(1):
        child = client.get_workflow_handle(shipping_workflow_id(order.order_id, n))
        if not await _is_closed(child):
            break
        ids[f"shipping-{n}"] = child.id
    return {
        f"{scenario.name}.{part}.json": cleaned(
            (await client.get_workflow_handle(id_).fetch_history()).to_json()
        )
        for part, id_ in ids.items()
    }


async def _started_shipment(recorder: Recorder, order_id: str) -> WorkflowHandle[Any, Any]:
    child = recorder.client.get_workflow_handle(shipping_workflow_id(order_id, 1))
    async with asyncio.timeout(30):
        while not await _is_started(child):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return child


async def _is_started(child: WorkflowHandle[Any, Any]) -> bool:
    try:
        await child.describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


async def _is_closed(child: WorkflowHandle[Any, Any]) -> bool:
    """Wait until a child is closed; return False if it was never started."""
    try:
        async with asyncio.timeout(30):
            while (await child.describe()).status is WorkflowExecutionStatus.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


def cleaned(history: str) -> str:
    """Return the history without stack traces: they contain local paths, and the replay ignores them."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "" if key == "stackTrace" else clean(inner) for key, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list) else value

    document = clean(json.loads(history))
    for word in _names_of_this_machine():
        if any(word in text for text in _texts(document)):
            raise AssertionError(f"the history contains a name of this machine: {word}")
    return json.dumps(document, indent=1) + "\n"


def _names_of_this_machine() -> list[str]:
    return [
        socket.gethostname(),
        str(Path.cwd()),
        sys.prefix,
        str(Path.home()) + os.sep,
        str(HISTORIES.parents[2]),
    ]


def _texts(value: Any) -> list[str]:
    """Every text of a document, with its payloads decoded."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    if not isinstance(value, str):
        return []
    try:
        return [value, base64.b64decode(value, validate=True).decode("utf-8", "replace")]
    except ValueError:
        return [value]


async def main(names: list[str]) -> None:
    scenarios = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    # Failed attempts are expected.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with postgres_server() as postgres, postgres.fresh_database() as url:
        async with (
            Database(url, application_name=IDENTITY) as pool,
            await WorkflowEnvironment.start_local(
                dev_server_existing_path=packaged_program("temporal"),
                dev_server_log_level="error",
                identity=IDENTITY,
            ) as environment,
        ):
            faults = FaultsByOrder()
            faults.profiles = {scenario.order_id: scenario.faults for scenario in scenarios}
            activities = ActivitySet.create(
                OrderRepository(pool, IDENTITY, TEMPORAL), faults, simulated_gateways(pool)
            )
            recorder = Recorder(environment.client, pool)
            async with (
                order_worker(environment.client, ORDER_QUEUE, activities),
                compensation_worker(environment.client, ORDER_QUEUE, activities),
                shipping_worker(environment.client, SHIPPING_QUEUE, activities),
            ):
                recorded = await asyncio.gather(*(record(scenario, recorder) for scenario in scenarios))
    HISTORIES.mkdir(exist_ok=True)
    for scenario in scenarios:
        for old in HISTORIES.glob(f"{scenario.name}.*.json"):
            old.unlink()
    for histories in recorded:
        for name, text in histories.items():
            (HISTORIES / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{sum(map(len, recorded))} histories of {len(scenarios)} orders in {HISTORIES}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
