"""`make compose-proof`: build the images and run the unchanged compose file in a real Docker engine.

The engine and the base images are made of Debian and PyPI packages, in a temporary directory:
`tests/compose/base_images.py`. The checkout is copied with umask 077.

Prints a line per step. Exits with 1 if a check fails, and with 2 without root or a required program.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.compose import base_images, checks
from tests.compose.engine import PACKAGES, SUITE, Engine, ProofError, make_tree, missing_requirements
from tests.compose.project import Project, copy_checkout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description=__doc__)
    parser.add_argument("--directory", type=Path, help="keep Debian trees and wheels here for the next run")
    directory: Path | None = parser.parse_args().directory
    missing = missing_requirements()
    if missing:
        print(f"The proof of the compose file needs {', '.join(missing)}.", file=sys.stderr)  # noqa: T201
        return 2
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compose-proof-")))
        directory.mkdir(exist_ok=True)
        engine = Engine(directory / "engine")
        try:
            _prove(engine, directory)
        except ProofError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
        finally:
            engine.remove()
            for leftover in (engine.project, engine.tree / "var/lib/docker"):
                shutil.rmtree(leftover, ignore_errors=True)
    remaining = checks.leftovers(directory)
    if remaining:
        print(f"The proof left behind: {', '.join(remaining)}.", file=sys.stderr)  # noqa: T201
        return 1
    print("- Nothing is left: no process, mount or control group.")  # noqa: T201
    return 0


CHECKS: dict[str, Callable[[Project], str]] = {
    "Sizes of the images": checks.image_sizes,
    "Contents of the images": checks.image_contents,
    "Start": checks.start,
    "Order": checks.order,
    "Health checks": checks.health_checks,
    "Resource attributes of traces": checks.resource_attributes,
    "Reachable ports": checks.reachable_ports,
    "Scale": checks.scaling,
    "Password of one user": checks.password_change,
    "Distributed load test": checks.load_test,
    "New worker version": checks.new_version,
    "Restart of the engine": checks.engine_restart,
    "Audit": checks.audit,
    "Down": checks.down,
}


def _prove(engine: Engine, directory: Path) -> None:
    _step("Debian packages and wheels", lambda: _prepare(engine, directory))
    _step("Base images", lambda: base_images.build(engine, directory))
    project = Project(engine)
    with engine.serve(directory / "wheels", base_images.WHEEL_PORT) as server:
        try:
            _step("Build", lambda: _build(engine))
        finally:
            server.terminate()
    for name, check in CHECKS.items():
        _step(name, partial(check, project))


def _build(engine: Engine) -> None:
    engine.compose("build", timeout=1200)


def _step(name: str, run: Callable[[], str | None]) -> None:
    started = time.monotonic()
    try:
        result = run()
    except ProofError as error:
        raise ProofError(f"{name}: {error}") from error
    print(f"- {name} ({time.monotonic() - started:.0f} s){': ' + result if result else ''}", flush=True)  # noqa: T201


def _prepare(engine: Engine, directory: Path) -> None:
    make_tree(engine.tree, SUITE, PACKAGES)
    base_images.download(directory)
    copy_checkout(engine.project)
    engine.start()


if __name__ == "__main__":
    os.umask(0o022)
    # By default, SIGTERM ends the process without the cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
