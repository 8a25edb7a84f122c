"""Replays saved histories of real orders: workflow code must still produce the same commands.

After a failure here, orders that run during a deployment would get stuck. Either keep the old commands
(`workflow.patched`), or record new histories with `python -m tests.workflows.record_histories` and explain
why running orders need not continue.
"""

import base64
import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import WorkflowHistory
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import Interceptor, Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from orchestrator.messages.activities import Activity
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.shipping import ShippingWorkflow

FILES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replayer(*interceptors: Interceptor) -> Replayer:
    return Replayer(
        workflows=[OrderWorkflow, ShippingWorkflow, ReconcileWorkflow],
        workflow_runner=SandboxedWorkflowRunner(),
        interceptors=interceptors,
    )


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def history_of(text: str) -> WorkflowHistory:
    """The history with its workflow id, which the order workflow checks."""
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_a_saved_history_replays(file):
    await replayer().replay_workflow(history_of(read(file)))


async def test_a_history_without_tracing_replays_with_tracing_and_creates_no_second_span():
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracing = TracingInterceptor(provider.get_tracer("tests"), always_create_workflow_spans=True)
    for name in ("completed-under-faults.order", "cancelled-after-charge.order", "completed.shipping-1"):
        history = history_of(read(FILES[0].with_name(f"{name}.json")))
        await replayer(tracing).replay_workflow(history)
    assert {span.name.partition(":")[0] for span in kept.get_finished_spans()} <= {"CompleteWorkflow"}


def results() -> set[tuple[str, str | None]]:
    """(outcome, reason) of every saved workflow that returned an outcome."""
    found = set()
    for file in FILES:
        last = json.loads(read(file))["events"][-1]
        payloads = (
            last.get("workflowExecutionCompletedEventAttributes", {}).get("result", {}).get("payloads", [])
        )
        for payload in payloads:
            value = json.loads(base64.b64decode(payload["data"]))
            if "outcome" in value:
                found.add((value["outcome"], value["reason"]))
    return found


def test_every_outcome_has_a_saved_history():
    assert results() == {
        ("completed", None),
        ("cancelled", "customer_cancelled"),
        ("cancelled", "review_rejected"),
        ("cancelled", "review_expired"),
        ("failed", "payment_declined"),
        ("failed", "validation_failed"),
        ("failed", "deadline"),
        ("failed", "shipping_failed"),
        ("failed", "terminated"),
    }


def test_every_workflow_has_a_saved_history():
    assert {file.stem.split(".")[1].split("-")[0] for file in FILES} == {"order", "shipping", "reconcile"}


async def test_a_changed_history_fails_the_replay():
    # The same history with another activity in its place.
    document = json.loads(read(next(file for file in FILES if file.name == "completed.order.json")))
    for event in document["events"]:
        marker = event.get("markerRecordedEventAttributes")
        if marker:
            (payload,) = marker["details"]["data"]["payloads"]
            data = json.loads(base64.b64decode(payload["data"]))
            if data["activity_type"] == Activity.RUN_STEP_BATCH:
                data["activity_type"] = Activity.REFUND
                payload["data"] = base64.b64encode(json.dumps(data).encode()).decode()
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(history_of(json.dumps(document)))
