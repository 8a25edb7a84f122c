"""The workers log each state change of an order and each signal as a JSON line."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import Layout
from tests.live import LiveApi, eventually, new_id
from tests.orders import OTHER_ADDRESS
from tests.stacks import frozen

LINE = (
    "import structlog; from orchestrator.observability import logs;"
    "from orchestrator.settings import Settings;"
    "logs.configure(Settings(), 'order-worker-1');"
    "structlog.get_logger().info('order accepted', order_id='o-1', run_id='r-1')"
)


def lines_of(stack: Stack, order_id: str) -> list[dict[str, Any]]:
    """The log lines of the stack's workers about an order, oldest first."""
    logs = Layout(stack.settings).logs
    lines = [line for file in logs.glob("*worker-1.log") for line in file.read_text().splitlines()]
    parsed = [json.loads(line) for line in lines if order_id in line]
    return sorted(
        (each for each in parsed if each.get("order_id") == order_id), key=lambda each: each["timestamp"]
    )


@pytest.mark.stack
def test_every_state_change_and_every_signal_is_logged(live: LiveApi, live_stack: Stack) -> None:
    run_id = new_id()
    order_id = live.start(run_id=run_id, review="manual")
    live.in_state(order_id, "in_review")
    moved = live.signal(order_id, "update-address", new_address=asdict(OTHER_ADDRESS), updated_by="customer")
    assert moved.status_code == 200
    # The API itself answers a request to a finished order.
    with frozen(live_stack, "shipping-worker-1"):
        assert live.signal(order_id, "approve", reviewer="anna").status_code == 200
        assert live.signal(order_id, "reject", reviewer="bert", reason="late").status_code == 409
    completion_ms = live.finished(order_id)["completion_ms"]

    def finished() -> list[dict[str, Any]] | None:
        lines = lines_of(live_stack, order_id)
        return lines if any(line["event"] == "order finished" for line in lines) else None

    lines = eventually(finished)
    assert {line["run_id"] for line in lines} == {run_id}
    events = [(line["event"], line.get("step") or line.get("signal")) for line in lines]
    in_order = [each for each in events if each != ("signal too late", "reject_order")]
    assert in_order == [
        ("order accepted", "receive"),
        ("step done", "receive"),
        ("step done", "validate"),
        ("order in review", "review"),
        ("signal accepted", "update_address"),
        ("signal accepted", "approve_order"),
        ("order approved", "review"),
        ("step done", "charge"),
        ("step done", "prepare"),
        ("step done", "dispatch"),
        ("order finished", "finish"),
    ]
    assert ("signal too late", "reject_order") in events
    assert (lines[-1]["outcome"], lines[-1]["completion_ms"]) == ("completed", completion_ms)
    # Addresses and names are stored in the database only.
    text = json.dumps(lines)
    assert not [word for word in (OTHER_ADDRESS.street, "anna", "bert", "customer") if word in text]


@pytest.mark.stack
def test_an_aborted_order_logs_its_reason(live: LiveApi, live_stack: Stack) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    live.signal(order_id, "cancel", reason="not wanted", cancelled_by="customer")
    live.finished(order_id)
    lines = eventually(
        lambda: (now := lines_of(live_stack, order_id)) and now[-1]["event"] == "order finished" and now
    )
    signal, aborted, finished = lines[-3:]
    assert (signal["event"], signal["signal"]) == ("signal accepted", "cancel_order")
    assert (aborted["event"], aborted["reason"]) == ("order aborted", "customer_cancelled")
    assert (finished["outcome"], finished["reason"]) == ("cancelled", "customer_cancelled")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_log_lines_are_json_or_console_text(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINE],
        env={"LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    if log_format == "json":
        parsed = json.loads(line)
        assert (parsed["event"], parsed["level"], parsed["component"]) == (
            "order accepted",
            "info",
            "order-worker-1",
        )
        assert (parsed["order_id"], parsed["run_id"]) == ("o-1", "r-1")
    else:
        assert "order accepted" in line
        assert "order_id=o-1" in line
        with pytest.raises(json.JSONDecodeError):
            json.loads(line)
