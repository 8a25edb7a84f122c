"""The processes that send the orders of a run: this process alone, or Locust's workers.

In a distributed run every worker sends each n-th order of one schedule. The master waits until every worker
has reported that it drained; Locust itself would stop the workers half a second after the end of the test.
"""

import time
from collections.abc import Callable
from typing import Any

import gevent
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtest.generator.order_sender import OrderSender
from loadtest.generator.recording import Report, Tally
from loadtest.options import RunOptions
from loadtest.scenarios import SCENARIOS, OrderUser
from orchestrator.errors import UsageError
from orchestrator.settings import Settings

BEGIN = "orders_begin"
STOP = "orders_stop"
REPORT = "orders_report"
FAILURE = "orders_failure"

ACCEPTS_RUNS = "accepts_runs"
"""In each report of a worker to Locust's master, every 3 s, once the worker handles the messages above.
Locust reports a worker as connected before that, and drops a message that has no handler yet."""

POLL_SECONDS = 0.1
SILENT_SECONDS = 1.0
"""How long a master waits for workers before it reports that it waits."""

FIRST_REPORT_SECONDS = 30.0
"""A worker sends its first report as soon as it begins. One that is silent for this long counts as lost."""

GRACE_SECONDS = 30.0
"""Time after the drain for the final status requests and the last report of a process."""


class LocalGenerator:
    """Sends all orders from this process."""

    size = 1
    lost = 0

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._sender: OrderSender | None = None
        self.tally = Tally()
        self.failures: list[str] = []

    def require_workers(self) -> None:
        """This process needs no workers."""

    def begin(self, options: RunOptions, api_url: str, api_key: str | None) -> None:
        self.tally, self.failures = Tally(), []
        self._sender = _start_sender(
            self._environment, options, api_url, api_key, self.tally.add, self.failures.append
        )

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()

    @property
    def is_drained(self) -> bool:
        return self._sender is None or self._sender.wait_until_drained(0)


class DistributedGenerators:
    """The master's view of the workers that send the orders."""

    def __init__(self, runner: MasterRunner) -> None:
        self._runner = runner
        self._run_id = ""
        self._began = 0.0
        self._workers: dict[str, int] = {}
        self._ready: set[str] = set()
        self._reported: set[str] = set()
        self._drained: set[str] = set()
        self._lost: set[str] = set()
        self.tally = Tally()
        self.failures: list[str] = []
        runner.register_message(REPORT, self._on_report)
        runner.register_message(FAILURE, self._on_failure)
        runner.environment.events.worker_report.add_listener(self._on_worker_report)

    def require_workers(self) -> None:
        if not self._connected():
            raise UsageError("No worker is connected yet. Start a worker and retry.")

    def wait_for_workers(self, wanted: int, seconds: float, print_message: Callable[[str], None]) -> None:
        """Wait until `wanted` workers are connected. Raises UsageError after `seconds`."""
        began, is_reported = time.monotonic(), False
        while (connected := len(self._connected())) < wanted:
            waited = time.monotonic() - began
            if waited > seconds:
                raise UsageError(
                    f"{connected} of {wanted} workers connected within {seconds:g} s. "
                    "Start more workers, or lower --expect-workers."
                )
            if waited > SILENT_SECONDS and not is_reported:
                print_message(
                    f"Waiting for {wanted} workers, at most {seconds:g} s; {connected} connected so far."
                )
                is_reported = True
            gevent.sleep(POLL_SECONDS)

    def begin(self, options: RunOptions, api_url: str, api_key: str | None) -> None:  # noqa: ARG002
        """Start the workers. They use the API and the key of their own environment: keys never cross the
        unauthenticated connection between master and workers."""
        self.tally, self.failures = Tally(), []
        self._run_id, self._began = options.run_id, time.monotonic()
        self._reported, self._drained, self._lost = set(), set(), set()
        self._workers = {worker: index for index, worker in enumerate(sorted(self._connected()))}
        for worker, index in self._workers.items():
            message = {
                "options": options.to_json(),
                "worker_index": index,
                "worker_count": len(self._workers),
            }
            self._runner.send_message(BEGIN, message, client_id=worker)

    def stop(self) -> None:
        for worker in self._present():
            self._runner.send_message(STOP, None, client_id=worker)

    @property
    def is_drained(self) -> bool:
        return not self._present() - self._drained

    @property
    def lost(self) -> int:
        """Number of workers that disconnected before they had drained."""
        self._present()
        return len(self._lost)

    @property
    def size(self) -> int:
        return len(self._workers)

    def _connected(self) -> list[str]:
        return [
            client.id
            for client in self._runner.clients.all
            if client.id in self._ready and client.state != STATE_MISSING
        ]

    def _present(self) -> set[str]:
        """Return the workers of the run that are connected or have drained.

        A worker that was missing once stays lost, since its orders were not watched in the meantime.
        """
        for worker in self._workers.keys() - self._drained - self._lost:
            client = self._runner.clients.get(worker)
            if client is None or client.state == STATE_MISSING:
                self._lost.add(worker)
            elif worker not in self._reported and time.monotonic() - self._began > FIRST_REPORT_SECONDS:
                self.failures.append(f"no report within {FIRST_REPORT_SECONDS:.0f} s")
                self._lost.add(worker)
        return self._workers.keys() - self._lost

    def _is_of_this_run(self, msg: Message) -> bool:
        """Return False for a late message of an earlier run, and for a worker that connected later."""
        return msg.node_id in self._workers and msg.data["run_id"] == self._run_id

    def _on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        if data.get(ACCEPTS_RUNS):
            self._ready.add(client_id)

    def _on_report(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        if not self._is_of_this_run(msg):
            return
        report = Report.from_wire(msg.data["report"])
        self.tally.add(report)
        self._reported.add(msg.node_id)
        if report.drained:
            self._drained.add(msg.node_id)

    def _on_failure(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        if self._is_of_this_run(msg):
            self.failures.append(msg.data["error"])
            self._lost.add(msg.node_id)


LoadGenerators = LocalGenerator | DistributedGenerators


class WorkerAgent:
    """Sends orders in a worker process, as its master commands."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        # Read before the master's first message, which replaces environment.host.
        self._api_url = environment.host or Settings.load().api_url
        self._sender: OrderSender | None = None
        self._run_id = ""
        self._drain_seconds = 0.0
        runner.register_message(BEGIN, self._on_begin)
        runner.register_message(STOP, self._on_stop)
        environment.events.report_to_master.add_listener(self._add_to_report)
        # Locust's next report is up to 3 s later.
        runner._send_stats()

    def drain(self) -> None:
        """Stop sending, and wait until the orders in flight are recorded and reported."""
        if self._sender is not None:
            self._sender.stop()
            self._sender.wait_until_drained(self._drain_seconds)

    def _add_to_report(self, client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG002
        data[ACCEPTS_RUNS] = True

    def _on_begin(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        self._run_id = msg.data["options"]["run_id"]
        try:
            options = RunOptions.from_json(msg.data["options"])
            self._drain_seconds = options.drain_timeout_seconds + GRACE_SECONDS
            self._sender = _start_sender(
                self._environment,
                options,
                self._api_url,
                Settings.load().api_key_text,
                self._send_report,
                self._send_failure,
                msg.data["worker_index"],
                msg.data["worker_count"],
            )
        except Exception as error:
            self._send_failure(failure_text(error))
            # Locust logs it.
            raise

    def _on_stop(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        if self._sender is not None:
            self._sender.stop()

    def _send_report(self, report: Report) -> None:
        if report.drained:
            # Locust sends its statistics every 3 s; the last ones must arrive before the verdict.
            self._runner._send_stats()
        self._runner.send_message(REPORT, {"run_id": self._run_id, "report": report.to_wire()})

    def _send_failure(self, error: str) -> None:
        self._runner.send_message(FAILURE, {"run_id": self._run_id, "error": error})


def failure_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _start_sender(
    environment: Environment,
    options: RunOptions,
    api_url: str,
    api_key: str | None,
    report: Callable[[Report], None],
    report_failure: Callable[[str], None],
    worker_index: int = 0,
    worker_count: int = 1,
) -> OrderSender:
    user = SCENARIOS[options.scenario](environment)
    sender = OrderSender(
        environment,
        api_url,
        options,
        user.run_order,
        report,
        api_key=api_key,
        worker_index=worker_index,
        worker_count=worker_count,
    )
    OrderUser.sender = sender

    def run() -> None:
        try:
            sender.run()
        except Exception as error:
            report_failure(failure_text(error))
            # gevent prints it.
            raise
        finally:
            # The users of the next closed run exist before its sender, and must not use this one.
            if OrderUser.sender is sender:
                OrderUser.sender = None

    gevent.spawn(run)
    return sender
