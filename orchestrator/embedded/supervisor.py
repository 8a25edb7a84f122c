"""supervisord: its configuration, its start, and a client of its XML-RPC interface."""

import http.client
import json
import os
import shlex
import signal
import socket
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator import output_file
from orchestrator.embedded.component import Component, RunningProcess
from orchestrator.embedded.layout import Layout
from orchestrator.errors import StackError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_PROGRAM = Path(__file__).with_name("supervisord.py")

RESPONSE_SECONDS = 10.0
START_SECONDS = 15.0
POLL_SECONDS = 0.05

# Paths may contain characters that are special in this file (`%`, ` ;`, quotes). So they are environment
# variables, or relative to ORDERS_HOME, where supervisord runs.
_CONFIG_HEAD = """\
[unix_http_server]
file=%(ENV_ORDERS_SUPERVISOR_SOCKET)s
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
nodaemon=true
silent=true
nocleanup=true
pidfile=supervisor/supervisord.pid
childlogdir=logs
logfile=logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
"""

# startsecs=0: restart immediately, without a limit and without backoff. A component that exits because
# another one is unavailable must be back soon after that one.
_CONFIG_PROGRAM = """
[program:{name}]
command=%(ENV_ORDERS_LAUNCHER)s supervisor/{name}.json
priority={priority}
autostart=false
autorestart=true
startsecs=0
startretries=1000000
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


class SupervisorUnavailable(StackError):
    """The supervisor does not respond; the stack is not running."""


class SupervisorShuttingDown(SupervisorUnavailable):
    """The supervisor is stopping its components, and rejects every other request."""


class SupervisorRejected(StackError):
    """The supervisor rejected the request."""


def write_configuration(layout: Layout, components: Sequence[Component]) -> None:
    """Write supervisord's configuration and the launcher's spec of each component."""
    sections = [_CONFIG_HEAD]
    if os.geteuid() == 0:
        # Without this line supervisord warns. The launcher drops root for the servers.
        sections.append("user=root\n")
    for component in components:
        sections.append(
            _CONFIG_PROGRAM.format(
                name=component.name,
                # supervisord stops the highest priority first.
                priority=component.stage * 100,
                stop_signal=component.stop_signal.name.removeprefix("SIG"),
                stop_seconds=component.stop_seconds,
            )
        )
        account = component.account()
        _write_spec(
            layout.spec(component.name),
            {
                "argv": component.command,
                "environment": dict(component.environment),
                "inherits": component.inherits,
                "directory": str(component.directory),
                "death_signal": int(component.death_signal),
                "starts": str(layout.starts(component.name)),
                "uid": account.uid if account else None,
                "gid": account.gid if account else None,
                "parent_pid": None,
            },
        )
        layout.starts(component.name).write_text("")
    output_file.write(layout.supervisor_config, "".join(sections))


def _write_spec(path: Path, spec: Mapping[str, object]) -> None:
    output_file.write(path, json.dumps(spec, indent=2))


def start_supervisor(layout: Layout, environment: Mapping[str, str], *, bound: bool) -> int:
    """Start supervisord without components and return its process id when it responds.

    With `bound`, it stops everything when this process ends (Linux only; call this from the main thread,
    because the kernel's parent-death signal depends on the thread). Raises StackError if it does not start.
    """
    _write_spec(
        layout.spec("supervisord"),
        {
            # -P: do not search this directory for modules.
            "argv": [sys.executable, "-P", str(_PROGRAM), "-n", "-c", "supervisor/supervisord.conf"],
            "environment": {
                "ORDERS_SUPERVISOR_SOCKET": str(layout.supervisor_socket),
                "ORDERS_LAUNCHER": shlex.join([sys.executable, "-S", "-E", str(_LAUNCHER)]),
            },
            "inherits": None,
            "directory": str(layout.home),
            "death_signal": int(signal.SIGTERM) if bound else 0,
            "starts": None,
            "uid": None,
            "parent_pid": os.getpid(),
        },
    )
    output_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-S", "-E", str(_LAUNCHER), str(layout.spec("supervisord"))],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(layout.supervisor_output), output_flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        # A background command of a shell ignores SIGINT, and child processes inherit that.
        setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
    try:
        _wait_until_it_responds(layout, pid)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    return pid


def _wait_until_it_responds(layout: Layout, pid: int) -> None:
    control = SupervisorControl(layout)
    not_after = time.monotonic() + START_SECONDS
    while not control.responds():
        if _has_ended(pid) or time.monotonic() > not_after:
            raise StackError(
                f"The process supervisor did not start. Read {layout.supervisor_output}, correct the cause "
                "and start again."
            )
        time.sleep(POLL_SECONDS)


def _has_ended(child_pid: int) -> bool:
    ended, _ = os.waitpid(child_pid, os.WNOHANG)
    return ended != 0


class SupervisorControl:
    """Client of a running supervisord. Methods raise SupervisorUnavailable if it does not respond."""

    def __init__(self, layout: Layout) -> None:
        self._socket = str(layout.supervisor_socket)

    def responds(self) -> bool:
        try:
            self._call("getState")
        except SupervisorUnavailable:
            return False
        return True

    def wait_for_shutdown(self, seconds: float) -> None:
        """Wait while the supervisor shuts down, at most this long."""
        not_after = time.monotonic() + seconds
        while time.monotonic() < not_after:
            try:
                self._call("getState")
            except SupervisorShuttingDown:
                time.sleep(POLL_SECONDS)
                continue
            except SupervisorUnavailable:
                pass
            return

    def pid(self) -> int:
        return int(self._call("getPID"))

    def processes(self) -> dict[str, RunningProcess]:
        """Return the processes by component name."""
        return {info["name"]: _running_process(info) for info in self._call("getAllProcessInfo")}

    def begin_start(self, name: str) -> None:
        """Start a component, if it is not running, without waiting for it."""
        self._call("startProcess", name, False, tolerate=("ALREADY_STARTED",))

    def begin_stop(self, name: str) -> None:
        """Stop a component without waiting for it."""
        self._call("stopProcess", name, False, tolerate=("NOT_RUNNING",))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Raises SupervisorRejected if the component is not running."""
        self._call("signalProcess", name, number.name.removeprefix("SIG"))

    def shut_down(self) -> None:
        """Stop supervisord and all components that still run."""
        with suppress(SupervisorShuttingDown):
            self._call("shutdown")

    def _call(self, method: str, *arguments: object, tolerate: Sequence[str] = ()) -> Any:
        try:
            return self._request(method, arguments)
        except xmlrpc.client.Fault as fault:
            reason = fault.faultString.split(":")[0]
            if reason in tolerate:
                return None
            if reason == "SHUTDOWN_STATE":
                raise SupervisorShuttingDown from None
            raise SupervisorRejected(
                f"The supervisor rejected {method}{arguments}: {fault.faultString}."
            ) from None
        except (OSError, http.client.HTTPException):
            raise SupervisorUnavailable from None

    def _request(self, method: str, arguments: Sequence[object]) -> Any:
        request = xmlrpc.client.dumps(tuple(arguments), f"supervisor.{method}").encode()  # type: ignore[arg-type]
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", "/RPC2", request, {"Content-Type": "text/xml"})
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise http.client.HTTPException(response.reason)
            result, _ = xmlrpc.client.loads(response.read())
            return result[0]
        finally:
            connection.close()


def _running_process(info: Mapping[str, Any]) -> RunningProcess:
    return RunningProcess(
        name=info["name"],
        pid=info["pid"],
        state=info["statename"],
        started_at=datetime.fromtimestamp(info["start"], UTC),
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RESPONSE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise
