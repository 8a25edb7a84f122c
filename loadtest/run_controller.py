"""Runs inside Locust: which of its events begin, stop, drain and judge one.

Ctrl-C, SIGTERM, the web page's stop, `--run-time` and the end of the schedule all lead here, to one drain and
one verdict. In a worker the same events drain its share.
"""

import gc
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.generator import locust_statistics
from loadtest.generator.generators import DistributedGenerators, LoadGenerators, LocalGenerator, WorkerAgent
from loadtest.options import Arrivals, RunOptions
from loadtest.reports import terminal
from loadtest.run import Run
from loadtest.scenarios import SCENARIOS
from loadtest.verdict.run_verdict import Verdict
from loadtest.web.pages import add_pages
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.security import bind_policy
from orchestrator.settings import Settings
from orchestrator.worker.liveness_file import touch


@contextmanager
def exit_on_error() -> Iterator[None]:
    """A wrong request ends the process with one sentence and exit code 2."""
    try:
        yield
    except OrderSystemError as error:
        terminal.print_error(str(error))
        sys.exit(ExitCode.WRONG_USAGE)


def prepare(environment: Environment) -> None:
    """Makes this Locust process part of our runs. Ends it with exit code 2 when a run of the command line is
    refused."""
    _interrupt_the_main_greenlet_only()
    locust_statistics.keep_exact_times()
    # What was loaded so far stays: without this each full collection looks through all of Locust and Flask,
    # and the schedule stands still meanwhile.
    gc.collect()
    gc.freeze()
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        worker = WorkerAgent(environment, runner)
        environment.events.quitting.add_listener(lambda **_: worker.drain())
        liveness_file = Settings.load().liveness_file
        if liveness_file is not None:
            # The master answers every second to a worker that speaks to it.
            environment.events.heartbeat_received.add_listener(lambda **_: touch(liveness_file))
        return
    assert runner is not None, "Locust makes its runner before it fires init"
    generators: LoadGenerators = (
        DistributedGenerators(runner) if isinstance(runner, MasterRunner) else LocalGenerator(environment)
    )
    settings = Settings.load()
    session = Session(environment, settings, generators)
    given = vars(environment.parsed_options)
    if isinstance(runner, MasterRunner):
        with exit_on_error():
            bind_policy.require_api_keys(settings, "the master of the load tests", runner.master_bind_host)
    if environment.web_ui is not None:
        with exit_on_error():
            bind_policy.require_api_keys(settings, "the load tests' page", environment.web_ui.host)
        add_pages(environment.web_ui, session)
    if environment.web_ui is None or given["autostart"]:
        # Nobody will send the form: the run is the one of the command line.
        with exit_on_error():
            session.propose({**given, "users": given["num_users"]})
            if isinstance(generators, DistributedGenerators):
                session.wait_for_workers(
                    generators, given["expect_workers"], given["expect_workers_max_wait"]
                )


class Session:
    """The runs of one local or master process, one after another."""

    def __init__(self, environment: Environment, settings: Settings, generators: LoadGenerators) -> None:
        self.settings = settings
        self.run: Run | None = None
        """The run that is proposed, under way, or was the last."""

        self.trouble: str | None = None
        """Why the last run did not begin, or was not judged."""

        self._environment = environment
        self._generators = generators
        self._conducting: gevent.Greenlet[..., None] | None = None
        self._is_stopped = False
        self._is_quitting = False
        events = environment.events
        events.test_start.add_listener(self._on_test_start)
        events.test_stopping.add_listener(self._on_stop)
        # Fired before the exit code is read; a local runner stops only after that.
        events.quitting.add_listener(self._on_quitting)

    @property
    def is_active(self) -> bool:
        return self._conducting is not None and not self._conducting.ready()

    @property
    def verdict(self) -> Verdict | None:
        return None if self.run is None else self.run.verdict

    def propose_now(self, given: Mapping[str, Any], api_key: str | None) -> None:
        """Like `propose`, for a run that starts at once: whoever sends its orders must be there by now."""
        self._generators.require_workers()
        self.propose(given, api_key)

    def propose(self, given: Mapping[str, Any], api_key: str | None = None) -> None:
        """Checks a run that Locust is about to start, which will ask the API with `api_key`, or with that of
        the settings. Raises UsageError or ServiceUnavailable with one sentence."""
        if self.is_active:
            raise UsageError("a run is under way; stop it first")
        if self.run is not None:
            # It may have been proposed, and never started.
            self.run.release()
        self.trouble = None
        options = RunOptions.parse(given)
        run = Run(
            self._environment,
            self.settings,
            str(given.get("host") or self.settings.api_url),
            options,
            self._generators,
            api_key,
        )
        try:
            run.check()
        except OrderSystemError:
            run.release()
            raise
        self.run = run
        # Before Locust makes its plan of users from them.
        self._environment.user_classes = [SCENARIOS[options.scenario]]
        if options.arrivals is Arrivals.CLOSED and self._environment.parsed_options is not None:
            self._environment.parsed_options.num_users = options.users

    def wait_for_workers(self, generators: DistributedGenerators, wanted: int, seconds: float) -> None:
        """Before Locust waits for them, in silence and for ever. Raises UsageError when they do not come;
        ends the process when somebody does not want to wait any longer."""
        assert self.run is not None, "proposed"
        assert self._environment.runner is not None, "the master"
        try:
            generators.wait_for_workers(wanted, seconds, terminal.print_error)
        except (UsageError, KeyboardInterrupt) as error:
            self.run.release()
            self._environment.runner.quit()
            if isinstance(error, UsageError):
                raise
            terminal.print_error("interrupted while workers were waited for: no order was sent")
            sys.exit(ExitCode.INVALID_RUN)

    def _on_test_start(self, **_: Any) -> None:
        run = self.run
        if run is None or run.verdict is not None:
            return
        self._is_stopped = False
        self._conducting = gevent.spawn(self._conduct, run)

    def _conduct(self, run: Run) -> None:
        """A run from its first order to its verdict, and the end of Locust's test with it."""
        code = ExitCode.CRASHED
        try:
            run.begin()
            if self._environment.web_ui is None:
                terminal.show_progress(run)
            verdict = run.finish()
            code = verdict.code
            terminal.show_verdict(verdict.report)
        except UsageError as error:
            code = ExitCode.WRONG_USAGE
            self.trouble = str(error)
            terminal.print_error(self.trouble)
        except Exception as error:
            self.trouble = f"this should not have happened ({type(error).__name__}): {error}"
            terminal.print_error(self.trouble)
            terminal.error_console.print_exception()
        finally:
            run.release()
        self._environment.process_exit_code = int(code)
        self._end_test()

    def _end_test(self) -> None:
        runner = self._environment.runner
        assert runner is not None, "a test runs"
        if self._environment.web_ui is None:
            # Also when Locust stops the test by itself, because its last worker is lost: it would not end.
            if not self._is_quitting:
                runner.quit()
        elif not self._is_stopped:
            runner.stop()

    def _on_quitting(self, **_: Any) -> None:
        self._is_quitting = True
        self._on_stop()

    def _on_stop(self, **_: Any) -> None:
        """Somebody stops the test, or the process: returns once the run has been judged."""
        conducting = self._conducting
        if conducting is None or conducting.ready() or conducting is gevent.getcurrent():
            return
        assert self.run is not None, "what is conducted was proposed"
        self._is_stopped = True
        self.run.stop()
        try:
            conducting.join()
        except KeyboardInterrupt:
            terminal.print_error("interrupted again: the run is not judged")
            self._environment.process_exit_code = int(ExitCode.CRASHED)
            conducting.kill(block=False)


def _interrupt_the_main_greenlet_only() -> None:
    """Python raises KeyboardInterrupt in whatever greenlet runs just then, which could be an order's."""

    def interrupt() -> None:
        gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    gevent.signal_handler(signal.SIGINT, interrupt)
