"""Test machines: Linux network namespaces on one bridge, whose links can be cut.

A namespace exists as long as it has a process, and every process here is killed when the process that
created the network ends. So no namespace, link or address remains, however that process ends. Needs root,
iproute2 and util-linux.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ip", "nsenter", "setpriv", "unshare")
SUBNET = "10.99.0.0/24"
_ADDRESS = "10.99.0.{}"
_BRIDGE = "bridge0"

CREATION_SECONDS = 5.0


def missing_requirements() -> list[str]:
    """Return what is missing for network namespaces, for example root."""
    missing = [] if os.geteuid() == 0 else ["root"]
    return missing + [f"the program {program}" for program in PROGRAMS if shutil.which(program) is None]


@dataclass(frozen=True)
class Machine:
    """A namespace with one address. `bridge_interface` is the end of its link at the bridge."""

    name: str
    address: str
    bridge_interface: str
    namespace: str
    """The file of its network namespace."""

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> subprocess.Popen[bytes]:
        """Start a process in the namespace. It receives `death_signal` when this process ends."""
        account = []
        if user is not None and group is not None:
            account = [f"--reuid={user}", f"--regid={group}", f"--groups={group}"]
        with log.open("ab") as output:
            return subprocess.Popen(
                [
                    *("nsenter", f"--net={self.namespace}"),
                    *("setpriv", f"--pdeathsig={death_signal.name}", *account),
                    *command,
                ],
                stdout=output,
                stderr=output,
                cwd=directory,
                env=None if environment is None else dict(environment),
                # Ctrl-C must reach the test only, which stops its machines in order.
                start_new_session=True,
            )


class Network:
    """A bridge and its machines, as a context manager. Use it in the main thread: the kernel kills the
    processes of a machine when the thread that started them ends."""

    def __init__(self) -> None:
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._bridge = ""
        self._connected = 0

    def __enter__(self) -> "Network":
        try:
            self._bridge = self._new_namespace()
            _run("ip", "link", "add", _BRIDGE, "type", "bridge", inside=self._bridge)
            _run("ip", "link", "set", _BRIDGE, "up", inside=self._bridge)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.kill()
            keeper.wait()

    def add(self, name: str) -> Machine:
        """Add a machine to the bridge."""
        return self._connect(name, self._new_namespace())

    def add_own_namespace(self, name: str) -> Machine:
        """Add the namespace of this process to the bridge."""
        return self._connect(name, "/proc/self/ns/net")

    def cut(self, machine: Machine) -> None:
        """Drop all packets from and to a machine. Its link stays up, and no connection is closed."""
        _run("ip", "link", "set", machine.bridge_interface, "nomaster", inside=self._bridge)

    def heal(self, machine: Machine) -> None:
        _run("ip", "link", "set", machine.bridge_interface, "master", _BRIDGE, inside=self._bridge)

    def _connect(self, name: str, namespace: str) -> Machine:
        self._connected += 1
        address, interface = _ADDRESS.format(self._connected), f"port{self._connected}"
        machine = Machine(name, address, interface, namespace)
        # `ip` names the other namespace by a process in it. The bridge's namespace has one, so the pair is
        # created on the machine's side.
        bridge_pid = str(self._keepers[0].pid)
        _run(
            *("ip", "link", "add", "eth0", "type", "veth", "peer", "name", interface, "netns", bridge_pid),
            inside=namespace,
        )
        _run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0", inside=namespace)
        for link in ("lo", "eth0"):
            _run("ip", "link", "set", link, "up", inside=namespace)
        _run("ip", "link", "set", machine.bridge_interface, "master", _BRIDGE, "up", inside=self._bridge)
        return machine

    def _new_namespace(self) -> str:
        """Create a namespace that a sleeping process keeps, and return its file."""
        keeper = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sleep", "infinity"], start_new_session=True
        )
        self._keepers.append(keeper)
        network = f"/proc/{keeper.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        not_after = time.monotonic() + CREATION_SECONDS
        while os.readlink(network) == ours:
            if keeper.poll() is not None or time.monotonic() > not_after:
                raise RuntimeError("no network namespace could be created")
            time.sleep(0.005)
        return network


def _run(*command: str, inside: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--net={inside}", *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
