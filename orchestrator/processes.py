"""The long-running processes, without the command line around them: `python -m orchestrator.processes`.

The stack starts them so, because each would otherwise pay for the imports of the whole command line
before it serves: half a second of CPU, five times over, at every start.
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
from typing import Literal, NoReturn, get_args

from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.settings import Settings

WorkerKind = Literal["order", "shipping", "all"]


def run_worker(kind: WorkerKind, name: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, then ends the process."""
    from orchestrator.worker import main as worker

    async def serve() -> None:
        await worker.run(Settings.load(), kind, name)
        # Here, where a second SIGTERM is still heard by the loop: it must not look like a death.
        end_at_once()

    _settle_memory()
    asyncio.run(serve())


def run_api() -> None:
    """Serves until SIGINT or SIGTERM, then ends the process."""
    from orchestrator.api import server

    _settle_memory()
    server.run(Settings.load())
    end_at_once()


def _settle_memory() -> None:
    """Takes what the imports have made out of the garbage collector's sight: it stays for good.

    A full collection comes when a quarter as many objects are waiting for it as there were after the last.
    Finished workflows wait for one, so by that measure they would first fill a quarter of the process.
    """
    gc.collect()
    gc.freeze()


def end_at_once(code: int = 0) -> NoReturn:
    """Ends a process whose work is done, without the interpreter's own tidying up: the Temporal SDK's
    threads can make that take seconds, or abort, when a call was in flight."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker")
    worker.add_argument("kind", choices=get_args(WorkerKind))
    worker.add_argument("--name")
    commands.add_parser("api")
    options = parser.parse_args()
    try:
        if options.command == "worker":
            run_worker(options.kind, options.name)
        else:
            run_api()
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OrderSystemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
