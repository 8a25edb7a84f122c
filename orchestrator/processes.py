"""Entry point of the long-running processes: `python -m orchestrator.processes worker KIND` or `api`.

The stack uses it instead of the command line, whose imports cost half a second of CPU at each process start.
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
from typing import NoReturn

from orchestrator.errors import ExitCode, OrderSystemError, UsageError
from orchestrator.settings import Settings
from orchestrator.worker import WorkerKind


def run_worker(kind: WorkerKind, name: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then end the process."""
    from orchestrator.worker import main as worker

    async def serve() -> None:
        await worker.run(Settings.load(), kind, name)
        # Within the event loop, which handles a second SIGTERM; after it the process would exit with -15.
        exit_immediately()

    _freeze_imported_objects()
    asyncio.run(serve())


def run_api() -> None:
    """Serve until SIGINT or SIGTERM, then end the process."""
    from orchestrator.api import server

    _freeze_imported_objects()
    server.run(Settings.load())
    exit_immediately()


def _freeze_imported_objects() -> None:
    """Exclude what the imports created from garbage collection.

    A full collection starts when the number of new objects exceeds a quarter of the surviving ones. With the
    imported objects among these, finished workflows would fill a quarter of the process's memory first.
    """
    gc.collect()
    gc.freeze()


def exit_immediately(code: int = 0) -> NoReturn:
    """End the process without the interpreter's shutdown.

    With calls in flight, threads of the Temporal SDK can delay the shutdown by seconds or abort the process.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker")
    worker.add_argument("kind", type=WorkerKind, choices=list(WorkerKind))
    worker.add_argument("--name")
    commands.add_parser("api")
    options = parser.parse_args()
    try:
        if options.command == "worker":
            run_worker(options.kind, options.name)
        else:
            run_api()
    except OrderSystemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        exit_immediately(ExitCode.WRONG_USAGE if isinstance(error, UsageError) else ExitCode.CRASHED)


if __name__ == "__main__":
    main()
