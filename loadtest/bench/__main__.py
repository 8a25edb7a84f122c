"""`python -m loadtest.bench [MEASURE ...]`: measure the stack and print the performance table.

Uses the running stack of these settings, or starts one and stops it at the end.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

import typer

from loadtest.bench import load, operations, single_orders
from loadtest.bench.harness import TABLE_HEADER, Bench, Measurement
from loadtest.proofs.proof import setup_text
from orchestrator.embedded import Stack
from orchestrator.errors import ExitCode, OrderSystemError, UsageError
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect

Measure = Callable[[Bench], Awaitable[list[Measurement]]]

MEASURES: dict[str, Measure] = {
    "alone": single_orders.alone,
    "cpu": single_orders.cpu_per_order,
    "api": single_orders.api_latency,
    "requests": load.request_latency,
    "promise": load.promise,
    "capacity": load.capacity,
    "audit": operations.audit_sql,
    "restart": operations.restart,
}

app = typer.Typer(add_completion=False)


@app.command()
def run(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Any of: {', '.join(MEASURES)}. Default: all.")
    ] = None,
) -> None:
    """Measure the stack and print a Markdown table."""
    chosen = names or list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        raise UsageError(f"Unknown measure {unknown[0]!r}. Choose from: {', '.join(MEASURES)}")
    settings = Settings.load()
    stack = Stack(settings)
    was_started = stack.up(bound=True)
    try:
        asyncio.run(_measure(stack.running_settings(), stack, chosen))
    finally:
        if was_started:
            stack.down()


async def _measure(settings: Settings, stack: Stack, chosen: list[str]) -> None:
    bench = Bench(settings, stack, await connect(settings))
    print(f"{datetime.now(UTC):%Y-%m-%d}. {setup_text()}")  # noqa: T201
    print(f"\n{TABLE_HEADER}")  # noqa: T201
    for name in chosen:
        print(f"measuring: {name}", file=sys.stderr)  # noqa: T201
        for row in await MEASURES[name](bench):
            print(row, flush=True)  # noqa: T201


def main() -> None:
    try:
        app()
    except OrderSystemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(ExitCode.WRONG_USAGE if isinstance(error, UsageError) else ExitCode.CRASHED)


if __name__ == "__main__":
    main()
