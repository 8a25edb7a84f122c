"""Connects runs to Locust's events, which start, stop, drain and finish a run.

Ctrl-C, SIGTERM, SIGHUP, the stop button of the web UI, `--run-time` and the end of the schedule all lead to
the same drain and verdict. In a worker process they drain the orders of that worker.
"""

import gc
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner

from loadtest.generator.generators import DistributedGenerators, LoadGenerators, LocalGenerator, WorkerAgent
from loadtest.options import RunOptions, require_supported
from loadtest.reports import terminal
from loadtest.reports.locust_stats import use_exact_statistics
from loadtest.run import Run
from loadtest.scenarios import SCENARIOS
from loadtest.verdict.run_verdict import Verdict
from loadtest.web.pages import add_pages
from orchestrator.errors import DatabaseError, ExitCode, OrderSystemError, UsageError
from orchestrator.security import bind_policy
from orchestrator.settings import Settings
from orchestrator.worker.liveness_file import touch

DATABASE_RETRY_SECONDS = 2.0

START_SECONDS = 10.0
"""Time until Locust starts a run whose options were accepted. Until then no other run can start."""

QUIT_SECONDS = 10.0
"""Time in which Locust ends the process after the verdict."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an OrderSystemError as one sentence, and exit with code 2."""
    try:
        yield
    except OrderSystemError as error:
        terminal.print_error(str(error))
        sys.exit(ExitCode.WRONG_USAGE)


def prepare(environment: Environment, **_: Any) -> None:
    """Set up this Locust process. Exits with code 2 if the run of the command line is refused."""
    use_exact_statistics()
    # Otherwise each full garbage collection traverses all of Locust and Flask, and delays the schedule.
    gc.collect()
    gc.freeze()
    if isinstance(environment.runner, WorkerRunner):
        _prepare_worker(environment, environment.runner)
    else:
        with exit_on_error():
            _prepare_runs(environment, Settings.load())


def _prepare_worker(environment: Environment, runner: WorkerRunner) -> None:
    # The first Ctrl-C drains, the second one ends the process.
    errors: Iterator[BaseException] = iter((KeyboardInterrupt(),))
    _on_interrupt(lambda: next(errors, SystemExit(int(ExitCode.CRASHED))))
    worker = WorkerAgent(environment, runner)
    environment.events.quitting.add_listener(lambda **_: worker.drain())
    liveness_file = Settings.load().liveness_file
    if liveness_file is not None:
        # A connected worker gets a heartbeat from its master every second.
        environment.events.heartbeat_received.add_listener(lambda **_: touch(liveness_file))


def _prepare_runs(environment: Environment, settings: Settings) -> None:
    runner, web_ui = environment.runner, environment.web_ui
    assert runner is not None, "Locust creates its runner before it fires init"
    options = vars(environment.parsed_options)
    require_supported(options)
    if options["json"]:
        # Locust prints its JSON to stdout at the end.
        terminal.console.stderr = True
    generators: LoadGenerators = LocalGenerator(environment)
    if isinstance(runner, MasterRunner):
        generators = DistributedGenerators(runner)
        _require_api_keys(settings, runner.master_bind_host, waits=web_ui is not None)
    controller = RunController(environment, settings, generators)
    _on_interrupt(controller.interrupt_error)
    if web_ui is not None:
        # If the database is unavailable, start anyway: beyond loopback, every request needs a key.
        with suppress(DatabaseError):
            bind_policy.require_api_keys(settings, "the web UI of the load tests", web_ui.host)
        add_pages(web_ui, controller)
    if web_ui is None or options["autostart"]:
        controller.propose({**options, "users": options["num_users"]})
        if isinstance(generators, DistributedGenerators):
            controller.wait_for_workers(
                generators, options["expect_workers"], options["expect_workers_max_wait"]
            )


def _require_api_keys(settings: Settings, address: str, *, waits: bool) -> None:
    """Require API keys for a master, whose workers connect without authentication.

    Raises UsageError without keys. While the database is unavailable, retries if `waits`, else raises
    DatabaseError.
    """
    while True:
        try:
            return bind_policy.require_api_keys(settings, "the master of the load tests", address)
        except DatabaseError as error:
            if not waits:
                raise
            terminal.print_error(f"waiting for PostgreSQL: {error}")
            gevent.sleep(DATABASE_RETRY_SECONDS)


class RunController:
    """Controls the runs of one local or master process, one after another."""

    def __init__(self, environment: Environment, settings: Settings, generators: LoadGenerators) -> None:
        self.settings = settings
        self.run: Run | None = None
        """The proposed, the active, or the last run."""

        self.problem: str | None = None
        """Why the last run did not begin or has no verdict."""

        self._environment = environment
        self._generators = generators
        self._proposed: Run | None = None
        self._reserved_until = 0.0
        self._running: gevent.Greenlet[..., None] | None = None
        self._is_stopped = False
        self._is_quitting = False
        self._is_restoring = False
        options = environment.parsed_options
        self._autoquit_seconds = options.autoquit if options is not None and options.autostart else -1
        events = environment.events
        events.test_start.add_listener(self._on_test_start)
        events.test_stopping.add_listener(self._on_stop)
        # Locust reads the exit code after this event; a local runner stops only after that.
        events.quitting.add_listener(self._on_quitting)

    @property
    def is_active(self) -> bool:
        return self._running is not None and not self._running.ready()

    @property
    def verdict(self) -> Verdict | None:
        return None if self.run is None else self.run.verdict

    def propose_from_form(self, given: Mapping[str, Any], api_key: str | None) -> None:
        """Like `propose`, for a run that starts immediately: a master needs a connected worker."""
        self._generators.require_workers()
        self.propose(given, api_key)

    def propose(self, given: Mapping[str, Any], api_key: str | None = None) -> None:
        """Check a run that Locust is about to start. Without `api_key`, it uses the key of the settings.

        Raises UsageError or ServiceUnavailable.
        """
        runner = self._environment.runner
        is_locust_idle = runner is not None and runner.state in (STATE_INIT, STATE_STOPPED)
        if self.is_active or not is_locust_idle or time.monotonic() < self._reserved_until:
            raise UsageError("A run is active. Stop it first.")
        self.withdraw()
        options = RunOptions.parse(given)
        api_url = str(given.get("host") or self.settings.api_url)
        run = Run(self._environment, self.settings, api_url, options, self._generators, api_key)
        # The checks wait for the API, and another start may arrive in the meantime.
        self._reserved_until = math.inf
        try:
            run.check()
        except BaseException:
            self._reserved_until = 0.0
            run.release()
            raise
        self.problem = None
        self.run = self._proposed = run
        self._reserved_until = time.monotonic() + START_SECONDS
        # Locust reads these when it plans the users of the test, just after this.
        self._environment.user_classes = [SCENARIOS[options.scenario]]
        if self._environment.parsed_options is not None:
            self._environment.parsed_options.num_users = options.users

    def withdraw(self) -> None:
        """Drop a proposed run that Locust did not start."""
        if self._proposed is not None:
            self._proposed.release()
        self._proposed, self._reserved_until = None, 0.0

    def wait_for_workers(self, generators: DistributedGenerators, wanted: int, seconds: float) -> None:
        """Wait for workers before Locust does so, silently and without a limit.

        Raises UsageError if they do not connect in time. Ctrl-C exits with code 6.
        """
        assert self.run is not None, "proposed"
        assert self._environment.runner is not None, "the master"
        try:
            generators.wait_for_workers(wanted, seconds, terminal.print_error)
        except (UsageError, KeyboardInterrupt) as error:
            self.run.release()
            self._environment.runner.quit()
            if isinstance(error, UsageError):
                raise
            terminal.print_error("Interrupted while waiting for workers: no order was sent.")
            sys.exit(ExitCode.INVALID_RUN)

    def interrupt_error(self) -> BaseException | None:
        """Return the error that Ctrl-C raises in the main greenlet; None while a run restores the stack."""
        if self._is_restoring:
            return None
        is_over = self._running is not None and self._running.ready()
        if is_over and (self._is_quitting or self._environment.web_ui is None):
            return SystemExit(self._environment.process_exit_code)
        return KeyboardInterrupt()

    def _on_test_start(self, **_: Any) -> None:
        run, self._proposed = self._proposed, None
        self._reserved_until = 0.0
        runner = self._environment.runner
        assert runner is not None, "a test starts"
        if run is None:
            # A key press in Locust's terminal starts users without the form.
            gevent.spawn(runner.stop)
            return
        self._is_stopped = False
        self._running = gevent.spawn(self._execute, run)

    def _execute(self, run: Run) -> None:
        """Execute a run from its first order to its verdict, then end Locust's test."""
        self._environment.process_exit_code = int(ExitCode.CRASHED)
        try:
            run.begin()
            with terminal.progress(run) if self._environment.web_ui is None else nullcontext():
                verdict = run.finish()
            self._environment.process_exit_code = int(verdict.code)
            terminal.show_verdict(verdict.report)
        except UsageError as error:
            self._environment.process_exit_code = int(ExitCode.WRONG_USAGE)
            self.problem = str(error)
            terminal.print_error(self.problem)
        except Exception as error:
            self.problem = f"Internal error ({type(error).__name__}): {error}"
            terminal.print_error(self.problem)
            terminal.error_console.print_exception()
        finally:
            run.release()
        self._end_test()

    def _end_test(self) -> None:
        runner, web_ui = self._environment.runner, self._environment.web_ui
        assert runner is not None, "a test runs"
        if web_ui is None:
            # Quit also when Locust has stopped the test after the loss of its last worker: it would not quit.
            if not self._is_quitting:
                runner.quit()
            return
        if not self._is_stopped:
            runner.stop()
        if self._autoquit_seconds >= 0:
            gevent.spawn_later(self._autoquit_seconds, web_ui.stop)

    def _on_quitting(self, **_: Any) -> None:
        is_quitting, self._is_quitting = self._is_quitting, True
        self._on_stop()
        if is_quitting:
            # This is a second signal. Locust ends the process in the greenlet of the first one.
            gevent.sleep(QUIT_SECONDS)

    def _on_stop(self, **_: Any) -> None:
        """Stop the run and wait for its verdict. Called when the test or the process is stopped."""
        running, run = self._running, self.run
        if running is None or run is None or running is gevent.getcurrent():
            return
        if not running.ready():
            is_stopped, self._is_stopped = self._is_stopped, True
            if self._environment.web_ui is None and run.tally.in_flight and not is_stopped:
                terminal.console.print("Stopping: orders in flight finish first, then the verdict follows.")
            try:
                run.stop()
                running.join()
            except KeyboardInterrupt:
                self._is_restoring = True
                ending = "the run has no verdict" if run.verdict is None else "the run has its verdict"
                terminal.print_error(
                    f"Interrupted again: {ending}. Faults and components are restored first."
                )
                running.kill()
        # A run that was not interrupted has already released the stack. A further signal waits here.
        run.release()
        self._is_restoring = False


def _on_interrupt(make_error: Callable[[], BaseException | None]) -> None:
    """Raise the error of `make_error` in the main greenlet on SIGINT and SIGHUP, if it returns one.

    Python raises KeyboardInterrupt in the current greenlet, which could be the one of an order.
    """

    def interrupt() -> None:
        error = make_error()
        if error is not None:
            gevent.get_hub().handle_system_error(type(error), error)

    for number in (signal.SIGINT, signal.SIGHUP):
        # nohup ignores SIGHUP, and a shell starts background jobs with SIGINT ignored; SIGINT must stop them.
        if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            gevent.signal_handler(number, interrupt)
