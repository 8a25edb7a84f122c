"""The embedded stack as one thing: up, down, and what one may do to its components."""

import fcntl
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

import psutil

from orchestrator.embedded import components, preflight
from orchestrator.embedded.component import Component, ComponentStatus, RunningProcess, Stage
from orchestrator.embedded.health_checks import Probes
from orchestrator.embedded.layout import Layout, stack_environment
from orchestrator.embedded.migrations import migrate
from orchestrator.embedded.orphans import end_leftovers
from orchestrator.embedded.process_wait import wait_until_ended
from orchestrator.embedded.supervisor import (
    POLL_SECONDS,
    SupervisorControl,
    SupervisorRejected,
    SupervisorUnavailable,
    start_supervisor,
    write_configuration,
)
from orchestrator.errors import StackError
from orchestrator.settings import Settings

HEALTHY_SECONDS = 120.0
"""How long a component may take until it is healthy; generous, for machines that are busy otherwise."""

EXTERNAL_TEMPORAL_SECONDS = 10.0
"""How long a Temporal of somebody else's may take to answer; it was there before us."""

HEALTH_POLL_SECONDS = 0.1
"""Each round costs the parts some work, while they need the machine to start."""

HOPELESS_RESTARTS = 5
"""A component that died this often while it was waited for will not come up."""

Report = Callable[[str], None]
"""Takes one sentence on how far a start or stop has come."""


def _silent(_sentence: str) -> None:
    return None


class Stack:
    """The stack of one ORDERS_HOME. Cheap to make; it holds nothing open.

    Everything is asked of the supervisor, so any process may look at a stack and command it.
    """

    def __init__(self, settings: Settings, components: Sequence[Component] | None = None) -> None:
        """`components` replaces the plan, for tests of the stack itself."""
        self.settings = settings
        self._layout = Layout.of(settings)
        self._replaced_plan = components
        self._control = SupervisorControl(self._layout)

    def is_up(self) -> bool:
        """Whether the stack runs, healthy or not."""
        return self._layout.running_settings.exists() and self._control.answers()

    def has_supervisor(self) -> bool:
        """Whether a supervisor is there, whatever of the stack runs under it."""
        return self._control.answers()

    def has_died(self) -> bool:
        """Whether the stack was up and ended in another way than by `down`."""
        return self._layout.running_settings.exists() and not self._control.answers()

    def up(self, *, bound: bool = False, report: Report = _silent) -> bool:
        """Starts what is not there and returns when every component is healthy; False if the stack was up
        already.

        With `bound` the stack stops by itself when the calling process ends, however it ends (Linux only,
        from the main thread only). When a component does not become healthy, everything is stopped again.
        Raises StackError, with the mend, when the stack cannot be started, and UsageError when it would
        listen beyond this machine without keys.
        """
        if bound and threading.current_thread() is not threading.main_thread():
            raise ValueError("a bound stack must be started from the main thread")
        preflight.make_directories(self._layout)
        with preflight.filesystem_errors(self._layout), self.exclusively(report):
            if self.is_up():
                return False
            if self._control.answers():
                # The process that was starting it was killed halfway.
                self._stop_everything(_silent)
            end_leftovers(self._layout)
            components = self._plan()
            preflight.check_disk(self._layout)
            preflight.check_ports([port for component in components for port in component.ports])
            for component in components:
                for change in component.prepare() or ():
                    report(change)
            write_configuration(self._layout, components)
            start_supervisor(self._layout, stack_environment(self.settings), bound=bound)
            try:
                self._start_in_order(components, report)
                self._remember_settings()
            except BaseException:
                self._stop_everything(_silent)
                raise
            return True

    def down(self, *, report: Report = _silent) -> bool:
        """Stops every component and the supervisor, also one that a killed `up` left; False if there was
        nothing to stop. The data stays."""
        if not self._layout.control.is_dir():
            return False
        with self.exclusively(report):
            was_running = self._control.answers()
            if was_running:
                self._stop_everything(report)
            end_leftovers(self._layout)
            return was_running

    def components(self) -> list[ComponentStatus]:
        """Every component as it is now, in the order of their start; none when the stack is not running."""
        try:
            processes = self._control.processes()
        except SupervisorUnavailable:
            return []
        running = self.running_settings()
        with Probes(running) as probes:
            return [
                self._status(component, processes[component.name], probes)
                for component in self._plan(running)
                if component.name in processes
            ]

    def processes(self) -> list[RunningProcess]:
        """Every component's process, without the question whether it is well; none when the stack is not
        running."""
        try:
            return list(self._control.processes().values())
        except SupervisorUnavailable:
            return []

    def restarted_at(self, name: str) -> list[datetime]:
        """When a component was started again since `up`."""
        return [datetime.fromtimestamp(float(line.split()[1]), UTC) for line in self._starts(name)[1:]]

    def running_settings(self) -> Settings:
        """The settings the running stack was started with, which may have other ports than ours."""
        try:
            remembered = json.loads(self._layout.running_settings.read_text())
        except (OSError, ValueError):
            return self.settings
        return Settings(**remembered)

    def supervisor_pid(self) -> int:
        """The process that all components belong to. Raises SupervisorUnavailable when the stack is not running."""
        return self._control.pid()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to a component and returns the process id that got it. The supervisor starts the
        component again if it dies of it.

        Raises StackError for an unknown component, or one that does not run just now.
        """
        process = self._process(name)
        if not process.runs:
            raise StackError(f"{name} does not run just now ({process.state}); wait until it does.")
        self._control.signal(name, number)
        return process.pid

    def stop(self, name: str) -> None:
        """Stops a component and returns when it has stopped. It stays away until `start`."""
        self._process(name)
        self._stop_and_wait([name])

    def start(self, name: str, *, healthy_seconds: float = HEALTHY_SECONDS) -> None:
        """Starts a component and returns when it is healthy. Raises StackError when it does not become so."""
        self._process(name)
        self._control.begin_start(name)
        self.wait_until_healthy([name], healthy_seconds=healthy_seconds)

    def restart(self, name: str, *, healthy_seconds: float = HEALTHY_SECONDS) -> None:
        """Stops a component, starts it, and returns when it is healthy."""
        self.stop(name)
        self.start(name, healthy_seconds=healthy_seconds)

    def wait_until_healthy(
        self, names: Sequence[str] | None = None, *, healthy_seconds: float = HEALTHY_SECONDS
    ) -> None:
        """Returns when these components (default: all) are healthy. Raises StackError when they are not in
        time."""
        running = self.running_settings()
        awaited = [component for component in self._plan(running) if names is None or component.name in names]
        with Probes(running) as probes:
            self._wait_for(awaited, probes, _silent, healthy_seconds)

    def _start_in_order(self, components: Sequence[Component], report: Report) -> None:
        starts_workers = any(component.stage is Stage.SERVICES for component in components)
        with Probes(self.settings) as probes:
            for stage in Stage:
                starting = [component for component in components if component.stage is stage]
                for component in starting:
                    self._control.begin_start(component.name)
                self._wait_for(starting, probes, report, HEALTHY_SECONDS)
                if stage is Stage.SERVERS:
                    began = time.monotonic()
                    migrate(self.settings)
                    report(f"migrations are applied ({time.monotonic() - began:.1f} s)")
                    self._refuse_without_keys()
                    if starts_workers and not self.settings.uses_embedded_temporal:
                        self._find_external_temporal(probes)

    def _refuse_without_keys(self) -> None:
        """Before each part refuses by itself, and is started again and again."""
        # Imported late: PostgreSQL's driver takes 0.1 s, and not every command needs it.
        from orchestrator.security import bind_policy

        bind_policy.require_api_keys(self.settings, "the stack")

    def _find_external_temporal(self, probes: Probes) -> None:
        """Before workers wait for it in vain. Raises StackError when it does not answer."""
        not_after = time.monotonic() + EXTERNAL_TEMPORAL_SECONDS
        while not probes.temporal_timeout():
            if time.monotonic() > not_after:
                place = self.settings.external_temporal_address or "the Temporal profile's address"
                raise StackError(
                    f"No Temporal with the namespace {self.settings.temporal_namespace} answers at {place}; "
                    "start it, or correct TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE."
                )
            time.sleep(HEALTH_POLL_SECONDS)

    def _wait_for(
        self, awaited: Sequence[Component], probes: Probes, report: Report, healthy_seconds: float
    ) -> None:
        began = time.monotonic()
        waiting = list(awaited)
        # Only deaths while somebody waits are hopeless; in a long life each is killed now and then.
        restarts = {component.name: self._restarts(component.name) for component in waiting}
        while waiting:
            processes = self._control.processes()
            for component in list(waiting):
                process = self._exactly_timed(processes[component.name])
                if process.runs and component.healthy(probes, process):
                    waiting.remove(component)
                    report(f"{component.name} is healthy ({time.monotonic() - began:.1f} s)")
                elif self._restarts(component.name) - restarts[component.name] >= HOPELESS_RESTARTS:
                    raise self._unhealthy(component, f"died {HOPELESS_RESTARTS} times and more")
            if waiting and time.monotonic() - began > healthy_seconds:
                raise self._unhealthy(waiting[0], f"was not healthy within {healthy_seconds:.0f} s")
            if waiting:
                time.sleep(HEALTH_POLL_SECONDS)

    def _unhealthy(self, component: Component, what_happened: str) -> StackError:
        log = self._layout.log(component.name)
        last_lines = ""
        with suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()[-8:]
            last_lines = "".join(f"\n  {line}" for line in lines)
        return StackError(
            f"{component.name} {what_happened}; mend what its log says and start again. "
            f"The log is {log}, its last lines:{last_lines or ' none'}"
        )

    def _stop_everything(self, report: Report) -> None:
        """Stops the stages from the last to the first, all of a stage at once, then the supervisor."""
        try:
            supervisor = psutil.Process(self._control.pid())
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
            self._control.shut_down()
        except (SupervisorUnavailable, psutil.NoSuchProcess):
            return
        for process in wait_until_ended([supervisor], 10.0):
            process.kill()
        self._layout.running_settings.unlink(missing_ok=True)

    def _stop_and_wait(self, names: Sequence[str]) -> None:
        """Returns when these have stopped: supervisord kills what does not stop in time, so this ends."""
        while True:
            processes = self._control.processes()
            # One that has died by itself a moment ago is about to be started again, and then must be told.
            left = [name for name in names if processes[name].pid or processes[name].state == "EXITED"]
            if not left:
                return
            for name in left:
                self._control.begin_stop(name)
            time.sleep(POLL_SECONDS)

    def _process(self, name: str) -> RunningProcess:
        try:
            processes = self._control.processes()
        except SupervisorUnavailable:
            raise StackError("The stack is not running. Start it with `make up`.") from None
        if name not in processes:
            raise StackError(f"There is no component {name}. There are: {', '.join(processes)}.")
        return processes[name]

    def _status(self, component: Component, process: RunningProcess, probes: Probes) -> ComponentStatus:
        process = self._exactly_timed(process)
        return ComponentStatus(
            name=component.name,
            pid=process.pid or None,
            port=component.ports[0].number if component.ports else None,
            socket=None if component.socket is None else str(component.socket),
            healthy=process.runs and component.healthy(probes, process),
            restarts=self._restarts(component.name),
            state=process.state,
        )

    def _restarts(self, name: str) -> int:
        return max(0, len(self._starts(name)) - 1)

    def _exactly_timed(self, process: RunningProcess) -> RunningProcess:
        """supervisord cuts the time of a start to the second before; the launcher has noted it exactly."""
        for line in reversed(self._starts(process.name)):
            pid, _, started_at = line.partition(" ")
            if int(pid) == process.pid:
                return replace(process, started_at=datetime.fromtimestamp(float(started_at), UTC))
        # Not even the launcher has come to it yet.
        return replace(process, started_at=datetime.now(UTC))

    def _starts(self, name: str) -> list[str]:
        try:
            return self._layout.starts(name).read_text().splitlines()
        except OSError:
            return []

    def _plan(self, settings: Settings | None = None) -> Sequence[Component]:
        if self._replaced_plan is not None:
            return self._replaced_plan
        return components.components(settings or self.settings)

    def _remember_settings(self) -> None:
        remembered = self.settings.model_copy(update={"orders_home": self.settings.home})
        file = self._layout.running_settings
        file.touch(mode=0o600)
        file.write_text(remembered.model_dump_json())

    @contextmanager
    def exclusively(self, report: Report) -> Iterator[None]:
        """One `up`, `down`, backup or restore at a time; the lock goes with the process that holds it."""
        with self._layout.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("another command is at work on this stack, waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


__all__ = ["HEALTHY_SECONDS", "Report", "Stack", "SupervisorRejected", "SupervisorUnavailable"]
