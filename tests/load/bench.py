"""`make loadbench`: performance of the load generator against the fake API, as a Markdown table.

Exits with 1 when a target is missed. The audit of the fake API takes no time, so the time from the drain to
the verdict is that of the load generator alone.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.load.fake_api import Behaviour
from tests.load.harness import Finished, LoadTest, fake_api
from tests.ports import free_port_base
from tests.servers import postgres_server

RATE = 800
SECONDS = 15
MIXED_RATE = 50
MIXED_SECONDS = 30
MAX_SEND_DELAY_MS = 20.0
MAX_CPU_MS = 4.0
MAX_VERDICT_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    value: str
    target: str
    is_met: bool


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as home,
        postgres_server() as postgres,
        postgres.fresh_database() as url,
        fake_api(Behaviour(completion_ms=1_000)) as api,
    ):
        load_test = LoadTest(Path(home), url, free_port_base())
        words = ("--scenario=start-only", f"--rate={RATE}", f"--duration={SECONDS}s")
        plain = load_test.run(api, *words, run_id="plain")
        words = ("--scenario=mixed", f"--rate={MIXED_RATE}", f"--duration={MIXED_SECONDS}s")
        mixed = load_test.run(api, *words, run_id="mixed")
    rows = table(plain, mixed)
    lines = ["| measure | value | target | |", "|---|---|---|---|"]
    lines += [
        f"| {row.measure} | {row.value} | {row.target} | {'met' if row.is_met else 'MISSED'} |"
        for row in rows
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if all(row.is_met for row in rows) else 1


def table(plain: Finished, mixed: Finished) -> list[Row]:
    """Return the measurements of the two runs."""
    for run in (plain, mixed):
        if not run.report:
            raise RuntimeError(f"no verdict: {run.output}")
    delay, unaccounted = plain.run["lag_ms"]["p99"], plain.run["unaccounted"]
    lost = unaccounted + plain.run["skipped"] + plain.run["planned"] - plain.run["offered"]
    cpu, verdict = mixed.run["cpu_ms_per_order"], plain.report["verdict_seconds"]
    orders = plain.limit["orders"]
    return [
        Row(
            f"send delay p99, {RATE}/s from one process",
            f"{delay:.1f} ms",
            "20 ms",
            delay <= MAX_SEND_DELAY_MS,
        ),
        Row(f"orders of {plain.run['planned']} not sent or unaccounted for", f"{lost}", "0", lost == 0),
        Row(
            f"CPU per order of `mixed`, {MIXED_RATE}/s", f"{cpu:.2f} ms", "4 ms", cpu <= MAX_CPU_MS
        ),
        Row(
            f"from the drain to the verdict, {orders} orders", f"{verdict:.2f} s", "5 s",
            verdict <= MAX_VERDICT_SECONDS,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
