"""Who sends the orders: this process alone, or Locust's workers; how they begin, stop and drain.

In a distributed run every worker gets its share of one schedule: each n-th order. The master waits until
each has told that it drained, since Locust itself would end them half a second after the stop.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from loadtest.generator.order_sender import Generator
from loadtest.generator.recording import Report, Tally
from loadtest.options import RunOptions
from loadtest.scenarios import SCENARIOS, OrderUser
from orchestrator.errors import UsageError
from orchestrator.settings import Settings

BEGIN = "orders_begin"
STOP = "orders_stop"
REPORT = "orders_report"

POLL_SECONDS = 0.1
SILENT_SECONDS = 1.0
"""How long workers may take to connect before anybody is told that they are waited for."""

GRACE_SECONDS = 30.0
"""How long after the drain a process may take to say so: last looks at unfinished orders take time."""


class LoadGenerators(Protocol):
    """The processes that send the orders of one run."""

    @property
    def tally(self) -> Tally:
        """What is known of the orders of the last run."""

    @property
    def lost(self) -> int:
        """Processes that went away before they had accounted for their orders."""

    def check(self) -> None:
        """Raises UsageError when there is nobody to send."""

    def begin(self, options: RunOptions, api_url: str, api_key: str | None) -> None:
        """Sends the first order as soon as possible.

        Workers use the key of their own environment, at the API that they were started for: no key is sent
        over the wire to them, and whoever speaks to them as their master learns none.
        """

    def stop(self) -> None:
        """No further orders; those under way are drained."""

    @property
    def is_drained(self) -> bool:
        """Whether every process has accounted for its orders, or is lost."""

    @property
    def size(self) -> int:
        """How many processes the run began with."""


def wait_until_drained(generators: LoadGenerators, seconds: float) -> bool:
    """Returns whether the crew has drained within so long."""
    give_up = time.monotonic() + seconds
    while not generators.is_drained:
        if time.monotonic() > give_up:
            return False
        gevent.sleep(POLL_SECONDS)
    return True


class LocalGenerator:
    """This process sends."""

    size = 1

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._generator: Generator | None = None
        self.tally = Tally()
        self.lost = 0

    def check(self) -> None:
        """This process is there."""

    def begin(self, options: RunOptions, api_url: str, api_key: str | None) -> None:
        self.tally = Tally()
        self._generator = _start_generator(self._environment, options, api_url, api_key, self.tally.take)

    def stop(self) -> None:
        if self._generator is not None:
            self._generator.stop()

    @property
    def is_drained(self) -> bool:
        return self._generator is None or self._generator.wait_until_drained(0)


class DistributedGenerators:
    """Locust's workers send; this is the master's view of them."""

    def __init__(self, runner: MasterRunner) -> None:
        self._runner = runner
        self._workers: dict[str, int] = {}
        self._drained: set[str] = set()
        self._lost: set[str] = set()
        self.tally = Tally()
        runner.register_message(REPORT, self._on_report)

    def check(self) -> None:
        if not self._connected():
            raise UsageError("no worker has connected yet; start one and try again")

    def wait_for_workers(self, wanted: int, seconds: float, tell: Callable[[str], None]) -> None:
        """Returns when so many have connected; `tell` is told when that takes time. Raises UsageError when
        they have not within so long."""
        began, is_told = time.monotonic(), False
        while (there := len(self._connected())) < wanted:
            waited = time.monotonic() - began
            if waited > seconds:
                raise UsageError(
                    f"{there} of {wanted} workers came within {seconds:g} s; start them, or expect fewer"
                )
            if waited > SILENT_SECONDS and not is_told:
                tell(f"waiting for {wanted} workers, {seconds:g} s at most; {there} there")
                is_told = True
            gevent.sleep(POLL_SECONDS)

    def begin(self, options: RunOptions, api_url: str, api_key: str | None) -> None:  # noqa: ARG002
        self.tally = Tally()
        self._drained, self._lost = set(), set()
        self._workers = {worker: share for share, worker in enumerate(sorted(self._connected()))}
        for worker, share in self._workers.items():
            told = {
                "options": options.to_json(),
                "share": share,
                "shares": len(self._workers),
            }
            self._runner.send_message(BEGIN, told, client_id=worker)

    def stop(self) -> None:
        for worker in self._present():
            self._runner.send_message(STOP, None, client_id=worker)

    @property
    def is_drained(self) -> bool:
        return not self._present() - self._drained

    @property
    def lost(self) -> int:
        """Workers that went away before they had accounted for their orders."""
        self._present()
        return len(self._lost)

    @property
    def size(self) -> int:
        return len(self._workers)

    def _connected(self) -> list[str]:
        return [client.id for client in self._runner.clients.all if client.state != STATE_MISSING]

    def _present(self) -> set[str]:
        """The run's workers that are still there, or have drained. One that was lost once stays lost: what it
        sent meanwhile nobody has watched."""
        for worker in self._workers.keys() - self._drained:
            client = self._runner.clients.get(worker)
            if client is None or client.state == STATE_MISSING:
                self._lost.add(worker)
        return self._workers.keys() - self._lost

    def _on_report(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        if msg.node_id not in self._workers:
            return
        report = Report.from_wire(msg.data)
        self.tally.take(report)
        if report.drained:
            self._drained.add(msg.node_id)


class WorkerAgent:
    """A worker's answer to its master."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        # Before a master's first message, which brings its own.
        self._api_url = environment.host or Settings.load().api_url
        self._generator: Generator | None = None
        self._seconds = 0.0
        runner.register_message(BEGIN, self._on_begin)
        runner.register_message(STOP, self._on_stop)

    def drain(self) -> None:
        """Stops sending, and returns when the orders under way are accounted for and told."""
        if self._generator is None:
            return
        self._generator.stop()
        self._generator.wait_until_drained(self._seconds)

    def _on_begin(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        told: dict[str, Any] = msg.data
        options = RunOptions.from_json(told["options"])
        self._seconds = options.drain_timeout_seconds + GRACE_SECONDS
        self._generator = _start_generator(
            self._environment,
            options,
            self._api_url,
            Settings.load().api_key_text,
            self._tell,
            told["share"],
            told["shares"],
        )

    def _on_stop(self, environment: Environment, msg: Message) -> None:  # noqa: ARG002
        if self._generator is not None:
            self._generator.stop()

    def _tell(self, report: Report) -> None:
        if report.drained:
            # Locust sends its own statistics every 3 s; the last ones must be there before the verdict.
            self._runner._send_stats()
        self._runner.send_message(REPORT, report.to_wire())


def _start_generator(
    environment: Environment,
    options: RunOptions,
    api_url: str,
    api_key: str | None,
    tell: Callable[[Report], None],
    share: int = 0,
    shares: int = 1,
) -> Generator:
    user = SCENARIOS[options.scenario](environment)
    generator = Generator(
        environment, api_url, options, user.live, tell, api_key=api_key, share=share, shares=shares
    )
    OrderUser.generator = generator

    def dismiss(_: object) -> None:
        # The users of the next closed run are there before its generator, and must not take this one.
        if OrderUser.generator is generator:
            OrderUser.generator = None

    gevent.spawn(generator.run).link(dismiss)
    return generator
