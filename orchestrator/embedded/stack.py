"""Start, stop and control the embedded stack."""

import fcntl
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import psutil

from orchestrator import output_file
from orchestrator.embedded import components, preflight, supervisor
from orchestrator.embedded.component import Component, ComponentStatus, Report, RunningProcess, Stage
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.layout import Layout, stack_environment
from orchestrator.embedded.migrations import migrate
from orchestrator.embedded.orphans import end_orphans
from orchestrator.embedded.process_table import wait_until_ended
from orchestrator.embedded.supervisor import SupervisorControl, SupervisorUnavailable
from orchestrator.errors import StackError, TemporalUnavailable
from orchestrator.settings import Settings
from orchestrator.settings.environment import isolate_process
from orchestrator.startup import refuse
from orchestrator.startup.configuration import configuration_findings, gateway_findings

HEALTHY_SECONDS = 120.0
"""Time for a component to become healthy, on a busy machine too."""

EXTERNAL_TEMPORAL_SECONDS = 10.0
"""Time for an external Temporal server to respond."""

HEALTH_POLL_SECONDS = 0.1
"""Checks take CPU time from components that are starting."""

SHUTDOWN_SECONDS = 10.0

MAX_RESTARTS = 5
"""A component that has restarted this often while it is awaited is reported as failed."""


def _ignore(_sentence: str) -> None:
    return None


class Stack:
    """The stack of one ORDERS_HOME.

    Every process can control it: the supervisor and files below ORDERS_HOME hold its state.
    """

    def __init__(self, settings: Settings, components: Sequence[Component] | None = None) -> None:
        """`components` replaces the components that follow from the settings, for tests."""
        self.settings = settings
        self._layout = Layout(settings)
        self._components = components
        self._control = SupervisorControl(self._layout)

    def is_up(self) -> bool:
        """Return whether the stack is running, healthy or not."""
        return self._layout.running_settings.exists() and self._control.responds()

    def has_supervisor(self) -> bool:
        """Return whether a supervisor is running, also one that a killed `up` left."""
        return self._control.responds()

    def has_died(self) -> bool:
        """Return whether the stack was up and ended without `down`."""
        return self._layout.running_settings.exists() and not self._control.responds()

    def up(self, *, bound: bool = False, report: Report = _ignore) -> bool:
        """Start the stack and return when every component is healthy; return False if it was up already.

        With `bound`, the stack stops when the calling process ends (Linux only, from the main thread only).
        Stops everything and raises StackError if a component does not become healthy. Raises StartRefused if
        a start-up check fails, and UsageError if the stack would listen on other interfaces than loopback
        without API keys.
        """
        if bound and threading.current_thread() is not threading.main_thread():
            raise ValueError("a bound stack must be started from the main thread")
        isolate_process()
        refuse(configuration_findings(self.settings))
        refuse(gateway_findings(self.settings))
        preflight.make_directories(self._layout)
        with preflight.filesystem_errors(self._layout), self.exclusively(report):
            # That of an `up` that has just been killed.
            self._control.wait_for_shutdown(SHUTDOWN_SECONDS)
            if self.is_up():
                return False
            if self._control.responds():
                # An earlier `up` was killed before it finished.
                self._stop_everything(_ignore)
            end_orphans(self._layout)
            components = self._plan()
            preflight.check_disk(self._layout)
            preflight.check_ports([port for component in components for port in component.ports])
            for component in components:
                component.prepare(report)
            supervisor.write_configuration(self._layout, components)
            environment = stack_environment(self.settings)
            supervisor.start_supervisor(self._layout, environment, bound=bound)
            try:
                self._start_in_order(components, report)
                self._store_settings()
            except BaseException:
                self._stop_everything(_ignore)
                raise
            return True

    def down(self, *, report: Report = _ignore) -> bool:
        """Stop every component and the supervisor; return False if none was running. The data remains."""
        if not self._layout.control.is_dir():
            return False
        with self.exclusively(report):
            self._control.wait_for_shutdown(SHUTDOWN_SECONDS)
            was_running = self._control.responds()
            if was_running:
                self._stop_everything(report)
            end_orphans(self._layout)
            return was_running

    def components(self) -> list[ComponentStatus]:
        """Return the status of every component in starting order; [] if the stack is not running."""
        try:
            processes = self._control.processes()
        except SupervisorUnavailable:
            return []
        running = self.running_settings()
        with HealthChecks(running) as checks:
            return [
                self._status(component, processes[component.name], checks)
                for component in self._plan(running)
                if component.name in processes
            ]

    def processes(self) -> list[RunningProcess]:
        """Return the process of every component without health checks; [] if the stack is not running."""
        try:
            return list(self._control.processes().values())
        except SupervisorUnavailable:
            return []

    def restarted_at(self, name: str) -> list[datetime]:
        """Return the times of the restarts of a component since `up`."""
        return [datetime.fromtimestamp(float(line.split()[1]), UTC) for line in self._starts(name)[1:]]

    def running_settings(self) -> Settings:
        """Return the settings of the running stack, which can differ from `self.settings`."""
        try:
            stored = json.loads(self._layout.running_settings.read_text())
        except (OSError, ValueError):
            return self.settings
        return Settings(**stored)

    def supervisor_pid(self) -> int:
        """Raises SupervisorUnavailable if the stack is not running."""
        return self._control.pid()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a component and return its process id. The supervisor restarts it if it exits.

        SIGKILL returns when the process has ended. Raises StackError if the component is unknown or not
        running.
        """
        process = self._process(name)
        if not process.is_alive:
            raise StackError(f"{name} is not running ({process.state}).")
        self._control.signal(name, number)
        if number == signal.SIGKILL:
            # Until then a health check can find the killed process healthy.
            with suppress(psutil.NoSuchProcess):
                wait_until_ended([psutil.Process(process.pid)], SHUTDOWN_SECONDS)
        return process.pid

    def stop(self, name: str) -> None:
        """Stop a component and return when it has stopped. The supervisor does not restart it."""
        self._process(name)
        self._stop_and_wait([name])

    def start(self, name: str) -> None:
        """Start a component and return when it is healthy. Raises StackError otherwise."""
        self._process(name)
        self._control.begin_start(name)
        self.wait_until_healthy([name])

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def wait_until_healthy(self, names: Sequence[str] | None = None) -> None:
        """Wait until these components (default: all) are healthy. Raises StackError on timeout."""
        running = self.running_settings()
        awaited = [component for component in self._plan(running) if names is None or component.name in names]
        with HealthChecks(running) as checks:
            self._wait_for(awaited, checks, _ignore)

    def _start_in_order(self, components: Sequence[Component], report: Report) -> None:
        starts_workers = any(component.stage is Stage.SERVICES for component in components)
        with HealthChecks(self.settings) as checks:
            for stage in Stage:
                starting = [component for component in components if component.stage is stage]
                for component in starting:
                    self._control.begin_start(component.name)
                self._wait_for(starting, checks, report)
                for component in starting:
                    component.after_start()
                if stage is Stage.SERVERS:
                    began = time.monotonic()
                    migrate(self.settings)
                    report(f"migrations are applied ({time.monotonic() - began:.1f} s)")
                    self._restore_faults(report)
                    self._require_keys()
                    if starts_workers:
                        self._check_servers()

    def _restore_faults(self, report: Report) -> None:
        # Imported here, because the driver takes 0.1 s to load and most commands do not need it.
        from db import runs

        restored = runs.restore_faults(self.settings.order_database_url)
        if restored is not None:
            run_id, profile = restored
            report(f"the fault profile is {profile} again; load test {run_id} had not restored it")

    def _require_keys(self) -> None:
        # Each component checks this too, but the supervisor would restart it repeatedly. Imported here,
        # because the driver takes 0.1 s to load and most commands do not need it.
        from orchestrator.security import bind_policy

        bind_policy.require_api_keys(self.settings, "the stack")

    def _check_servers(self) -> None:
        """Check versions, schema, namespace and clocks. Each component checks them too, but the supervisor
        would restart it repeatedly."""
        # Imported while the servers start: the SDK takes 0.5 s to load.
        from orchestrator.startup.servers import check_servers, run_check

        not_after = time.monotonic() + EXTERNAL_TEMPORAL_SECONDS
        while True:
            try:
                findings = run_check(check_servers(self.settings))
            except TemporalUnavailable:
                if time.monotonic() > not_after:
                    address = self.settings.external_temporal_address or "the address of the Temporal profile"
                    raise StackError(
                        f"No Temporal server responds at {address}; start it, or correct TEMPORAL_ADDRESS."
                    ) from None
            else:
                return refuse(findings)
            time.sleep(HEALTH_POLL_SECONDS)

    def _wait_for(self, awaited: Sequence[Component], checks: HealthChecks, report: Report) -> None:
        began = time.monotonic()
        waiting = list(awaited)
        # Earlier restarts do not count.
        restarts = {component.name: self._restarts(component.name) for component in waiting}
        while waiting:
            processes = self._control.processes()
            for component in list(waiting):
                process = self._with_exact_start(processes[component.name])
                if process.is_alive and component.is_healthy(checks, process):
                    waiting.remove(component)
                    report(f"{component.name} is healthy ({time.monotonic() - began:.1f} s)")
                elif self._restarts(component.name) - restarts[component.name] >= MAX_RESTARTS:
                    raise self._unhealthy(component, f"exited {MAX_RESTARTS} times")
            if waiting and time.monotonic() - began > HEALTHY_SECONDS:
                raise self._unhealthy(waiting[0], f"was not healthy within {HEALTHY_SECONDS:.0f} s")
            if waiting:
                time.sleep(HEALTH_POLL_SECONDS)

    def _unhealthy(self, component: Component, what_happened: str) -> StackError:
        log = self._layout.log(component.name)
        last_lines = ""
        with suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()[-8:]
            last_lines = "".join(f"\n  {line}" for line in lines)
        return StackError(
            f"{component.name} {what_happened}. Correct the cause and start again. "
            f"Last lines of {log}:{last_lines or ' none'}"
        )

    def _stop_everything(self, report: Report) -> None:
        """Stop the components of each stage in parallel, the last stage first, then the supervisor."""
        try:
            process = psutil.Process(self._control.pid())
            running = self.running_settings()
            known = self._control.processes()
            for stage in reversed(Stage):
                names = [
                    component.name
                    for component in self._plan(running)
                    if component.stage is stage and component.name in known and known[component.name].pid
                ]
                self._stop_and_wait(names)
                for name in names:
                    report(f"{name} has stopped")
            # First, so that a waiting `up` does not conclude that the supervisor has died.
            self._layout.running_settings.unlink(missing_ok=True)
            self._control.shut_down()
        except (SupervisorUnavailable, psutil.NoSuchProcess):
            return
        if wait_until_ended([process], SHUTDOWN_SECONDS):
            process.kill()

    def _stop_and_wait(self, names: Sequence[str]) -> None:
        """Stop components and wait for their end: supervisord kills a component that does not stop in
        time."""
        while True:
            processes = self._control.processes()
            # supervisord is about to restart a component that has just exited.
            left = [name for name in names if processes[name].pid or processes[name].state == "EXITED"]
            if not left:
                return
            for name in left:
                self._control.begin_stop(name)
            time.sleep(supervisor.POLL_SECONDS)

    def _process(self, name: str) -> RunningProcess:
        try:
            processes = self._control.processes()
        except SupervisorUnavailable:
            raise StackError("The stack is not running. Start it with `make up`.") from None
        if name not in processes:
            raise StackError(f"Unknown component {name!r}. Choose one of: {', '.join(processes)}.")
        return processes[name]

    def _status(self, component: Component, process: RunningProcess, checks: HealthChecks) -> ComponentStatus:
        process = self._with_exact_start(process)
        return ComponentStatus(
            name=component.name,
            pid=process.pid or None,
            port=component.ports[0].number if component.ports else None,
            socket=None if component.socket is None else str(component.socket),
            healthy=process.is_alive and component.is_healthy(checks, process),
            restarts=self._restarts(component.name),
            state=process.state,
        )

    def _restarts(self, name: str) -> int:
        return max(0, len(self._starts(name)) - 1)

    def _with_exact_start(self, process: RunningProcess) -> RunningProcess:
        """supervisord truncates times to seconds; the launcher records them exactly."""
        for line in reversed(self._starts(process.name)):
            pid, _, started_at = line.partition(" ")
            if int(pid) == process.pid:
                return replace(process, started_at=datetime.fromtimestamp(float(started_at), UTC))
        # The launcher has not recorded this start yet.
        return replace(process, started_at=datetime.now(UTC))

    def _starts(self, name: str) -> list[str]:
        try:
            return self._layout.starts(name).read_text().splitlines()
        except OSError:
            return []

    def _plan(self, settings: Settings | None = None) -> Sequence[Component]:
        if self._components is not None:
            return self._components
        return components.components(settings or self.settings)

    def _store_settings(self) -> None:
        stored = self.settings.model_copy(update={"orders_home": self.settings.home})
        output_file.write(self._layout.running_settings, stored.model_dump_json(), mode=0o600)

    @contextmanager
    def exclusively(self, report: Report) -> Iterator[None]:
        """Hold the lock that allows one `up`, `down`, backup or restore at a time."""
        with self._layout.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("waiting for another command on this stack")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
