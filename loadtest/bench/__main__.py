"""`python -m loadtest.bench [MEASURE ...]`: measures the stack and prints the table.

Uses the running stack of these settings, or starts one and stops it afterwards.
"""

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import psutil
import typer
from rich.console import Console

from loadtest.bench import long_history, measures
from loadtest.bench.measures import Bench, Row
from orchestrator.embedded import Stack
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect

Measure = Callable[[Bench], Awaitable[list[Row]]]

MEASURES: dict[str, Measure] = {
    "alone": measures.alone,
    "cpu": measures.cpu_per_order,
    "api": measures.api_latency,
    "answers": measures.answers,
    "promise": measures.promise,
    "capacity": measures.capacity,
    "audit": long_history.audit_sql,
    "restart": measures.restart,
}

app = typer.Typer(add_completion=False)


@app.command()
def run(names: list[str] = typer.Argument(None, help=f"Of: {', '.join(MEASURES)}. Default: all.")) -> None:  # noqa: B008
    """Measures and prints a Markdown table."""
    chosen = names or list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        raise UsageError(f"unknown measure {unknown[0]}; known: {', '.join(MEASURES)}")
    settings = Settings.load()
    stack = Stack(settings)
    is_ours = stack.up(bound=True)
    try:
        asyncio.run(_measure(stack.running_settings(), stack, chosen))
    finally:
        if is_ours:
            stack.down()


async def _measure(settings: Settings, stack: Stack, chosen: list[str]) -> None:
    bench = Bench(settings, stack, await connect(settings))
    errors = Console(stderr=True)
    print(_machine())  # noqa: T201
    print("\n| measure | value | target |\n|---|---|---|")  # noqa: T201
    for name in chosen:
        errors.print(f"measuring: {name}", style="dim")
        for row in await MEASURES[name](bench):
            print(f"| {row.measure} | {row.value} | {row.target} |", flush=True)  # noqa: T201


def _machine() -> str:
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def main() -> None:
    try:
        app()
    except OrderSystemError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
