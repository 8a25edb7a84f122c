"""A Docker engine of Debian packages in a directory, in separate namespaces.

The engine, its containers and its networks end with the process that started them. Its network has no route
out of the host.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROGRAMS = ("debootstrap", "ip", "nsenter", "setpriv", "unshare")
SUITE = "trixie"
PACKAGES = (
    "docker.io",
    "docker-cli",
    "docker-compose",
    "docker-buildx",
    "iptables",
    "iproute2",
    "ca-certificates",
)
SOCKET = "/run/docker.sock"
START_SECONDS = 60.0
STOP_SECONDS = 120.0
"""Longer than the longest `stop_grace_period` of the compose file."""

_START = """
set -eu
mount --make-rprivate /
mount --bind "$TREE" "$TREE"
mount -t proc proc "$TREE/proc"
mount -t sysfs sys "$TREE/sys"
mount --rbind /sys/fs/cgroup "$TREE/sys/fs/cgroup"
mount --rbind /dev "$TREE/dev"
ip link set lo up
# Not chroot: with it, commands that Docker executes in a container would see the files of this machine.
mkdir -p "$TREE/machine"
cd "$TREE"
pivot_root . machine
umount --lazy /machine
exec dockerd --host "unix://$SOCKET" --storage-driver overlay2 --cgroup-parent "/$CGROUP" \
    --exec-opt native.cgroupdriver=cgroupfs --default-ulimit "nofile=$FILES:$FILES" --log-level warn
"""


class ProofError(Exception):
    """A check of the proof failed. The message says which one."""


def missing_requirements() -> list[str]:
    missing = [] if os.geteuid() == 0 else ["root"]
    return missing + [f"the program {program}" for program in PROGRAMS if shutil.which(program) is None]


def debian_mirror() -> str:
    """Return the mirror that apt of this machine uses."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return next(site for site in done.stdout.split() if site.rstrip("/").endswith("/debian"))


def make_tree(tree: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Install a minimal Debian with these packages into a directory, unless it is there."""
    if (tree / "complete").exists():
        return
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, tree, debian_mirror()],
        check=True, stdout=subprocess.DEVNULL, timeout=900,
    )  # fmt: skip
    (tree / "complete").touch()


@dataclass
class Engine:
    """A Docker engine in `tree`. Commands run in its directory /project."""

    tree: Path
    _process: subprocess.Popen[bytes] | None = None
    _pid: int = 0

    @property
    def project(self) -> Path:
        return self.tree / "project"

    @property
    def cgroup(self) -> str:
        return f"compose-proof-{os.getpid()}"

    def start(self) -> None:
        # After a restart of a host, /run is empty.
        shutil.rmtree(self.tree / "run", ignore_errors=True)
        (self.tree / "run").mkdir()
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        variables = {
            "TREE": str(self.tree),
            "SOCKET": SOCKET,
            "CGROUP": self.cgroup,
            "FILES": str(min(files, 2**16)),
        }
        with (self.tree / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL",
                 "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", _START],
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **variables},
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(
            lambda: self._find_pid() and self.docker("info", check=False).returncode == 0,
            START_SECONDS,
            "The engine",
        )

    def _find_pid(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ProofError(f"The engine ended. Its log: {(self.tree / 'engine.log').read_text()[-3000:]}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._pid = int(children[0]) if children else 0
        return self._pid

    def stop(self) -> None:
        """Stop the engine and all its containers, as at a shutdown of the host."""
        if self._process is None:
            return
        if self._process.poll() is None and self._find_pid():
            os.kill(self._pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop the engine and delete its control groups."""
        self.stop()
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self.cgroup}/**/"), reverse=True):
            group.rmdir()

    def run(
        self, *command: str, check: bool = True, timeout: float = 300, stdin: IO[bytes] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command in the engine's directory and namespaces."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            **(variables or {}),
        }
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", "--root", "--wd",
             "env", "--ignore-environment", "--chdir=/project",
             *(f"{name}={value}" for name, value in environment.items()), *command],
            stdin=stdin or subprocess.DEVNULL, capture_output=True, timeout=timeout,
        )  # fmt: skip
        output = subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        if check and done.returncode != 0:
            raise ProofError(
                f"{' '.join(command)} ended with {done.returncode}: {output.stdout}{output.stderr}"[-4000:]
            )
        return output

    def docker(
        self, *words: str, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return self.run("docker", *words, check=check, timeout=timeout)

    def import_image(self, archive: IO[bytes], name: str) -> None:
        """Make an image of a tar archive."""
        self.run("docker", "import", "-", name, stdin=archive, timeout=600)

    def compose(self, *words: str, check: bool = True, timeout: float = 300, **variables: str) -> str:
        """Run docker compose and return its standard output."""
        return self.run("docker", "compose", *words, check=check, timeout=timeout, variables=variables).stdout

    def on_host(self, command: list[str], pid: int | None = None, timeout: float = 60) -> str:
        """Run a program of this machine in the network of the engine, or of a container's process."""
        pid = pid or self._pid
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise ProofError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"[-4000:])
        return done.stdout

    def serve(self, directory: Path, port: int) -> subprocess.Popen[bytes]:
        """Serve files to the containers over HTTP until the returned process is terminated."""
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "nsenter", f"--net=/proc/{self._pid}/ns/net",
             "python3", "-m", "http.server", "--directory", str(directory), str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until the condition is true. Raises ProofError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProofError(f"{what} was not ready after {seconds:.0f} s.")
        time.sleep(0.5)
