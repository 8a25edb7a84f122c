"""How well the probability of missing the limit agrees with what happened to the orders of another load test.

    python -m tests.bench.calibration record RUN FILE       write the step times of a load test to a CSV file
    python -m tests.bench.calibration report FIT HELD_OUT   estimate from one file, compare with the other

`report` without files uses the recorded load tests of tests/data.
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashboard.view_models.miss_probability import COMPENSATION, STEPS, MissProbability
from db.database import Row
from db.domain import Step
from db.read_models import step_times
from db.read_only_database import ReadOnlyDatabase
from orchestrator.settings import Settings

DATA = Path(__file__).parents[1] / "data"
FIT, HELD_OUT = DATA / "step-times-fit.csv.gz", DATA / "step-times-held-out.csv.gz"
COLUMNS = ("review", "completion_ms", "aborted_ms", *(f"{step}_end_ms" for step in STEPS[:-1]))
LIMIT_MS = 4_000.0
"""Short enough that about half of the recorded orders are late, so that every probability occurs."""

EVERY_MS = 500.0
BINS = 10


@dataclass(frozen=True)
class Bin:
    """The forecasts in one tenth of the probabilities: their number, their mean, and the share that was
    late."""

    forecasts: int
    mean: float
    late_share: float


@dataclass(frozen=True)
class Calibration:
    """Forecasts for orders in flight, and whether each order was late. `unknown` orders have no forecast."""

    probabilities: np.ndarray
    late: np.ndarray
    unknown: int

    @property
    def brier(self) -> float:
        """The mean squared difference between forecast and result."""
        return float(np.mean((self.probabilities - self.late) ** 2))

    @property
    def base_rate_brier(self) -> float:
        """The Brier score of a constant forecast: the share of late orders, which it knows in advance."""
        return float(np.mean((self.late.mean() - self.late) ** 2))

    @property
    def bins(self) -> list[Bin]:
        index = np.minimum((self.probabilities * BINS).astype(int), BINS - 1)
        return [
            Bin(int(own.sum()), float(self.probabilities[own].mean()), float(self.late[own].mean()))
            for n in range(BINS)
            if (own := index == n).any()
        ]

    @property
    def calibration_error(self) -> float:
        """The mean difference between forecast and share of late orders, over all forecasts."""
        return sum(each.forecasts * abs(each.mean - each.late_share) for each in self.bins) / len(self.late)


def calibration(fit: Sequence[Row], held_out: Sequence[Row], limit_ms: float = LIMIT_MS) -> Calibration:
    """Estimate from the orders of `fit`, and make a forecast for each order of `held_out` every EVERY_MS."""
    model = MissProbability.of(fit)
    probabilities, late, unknown = [], [], 0
    for row in held_out:
        for order in _in_flight(row, limit_ms):
            probability = model.of_order(order)
            if probability is None:
                unknown += 1
                continue
            probabilities.append(probability)
            late.append(row["completion_ms"] > limit_ms)
    return Calibration(np.array(probabilities), np.array(late, dtype=float), unknown)


def _in_flight(row: Row, limit_ms: float) -> Iterator[Row]:
    """Yield the order as the dashboard would have shown it, every EVERY_MS until its outcome or limit."""
    for elapsed in np.arange(EVERY_MS / 2, min(row["completion_ms"], limit_ms), EVERY_MS):
        is_aborted = row["aborted_ms"] is not None and row["aborted_ms"] <= elapsed
        yield {
            "elapsed_ms": elapsed,
            "limit_ms": limit_ms,
            "review": row["review"],
            "abort_reason": "customer_cancelled" if is_aborted else None,
            "current_step": COMPENSATION if is_aborted else _step_at(row, elapsed),
        }


def _step_at(row: Row, elapsed: float) -> Step:
    ends = ((step, row[f"{step}_end_ms"]) for step in STEPS[:-1])
    return next((step for step, end in ends if end is None or end > elapsed), Step.FINISH)


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", newline="") as file:
        return [
            {
                name: value if name == "review" else int(value) if value else None
                for name, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def report(found: Calibration) -> str:
    """Return the reliability curve as a Markdown table, and the scores."""
    lines = ["| forecasts | mean probability | share of late orders |", "|---|---|---|"]
    lines += [f"| {each.forecasts:,} | {each.mean:.3f} | {each.late_share:.3f} |" for each in found.bins]
    return "\n".join(
        [
            *lines,
            "",
            f"Brier score {found.brier:.4f}; of the base rate {found.base_rate_brier:.4f}. "
            f"Mean calibration error {found.calibration_error:.3f}. "
            f"{len(found.late):,} forecasts, {found.unknown:,} unknown.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calibration", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("run")
    record.add_argument("file", type=Path)
    compare = commands.add_parser("report")
    compare.add_argument("fit", type=Path, nargs="?", default=FIT)
    compare.add_argument("held_out", type=Path, nargs="?", default=HELD_OUT)
    compare.add_argument("--limit-ms", type=float, default=LIMIT_MS)
    options = parser.parse_args()
    if options.command == "record":
        reader = ReadOnlyDatabase(Settings.load().order_database_url)
        write(options.file, step_times.newest(reader, options.run))
        reader.close()
    else:
        found = calibration(read(options.fit), read(options.held_out), options.limit_ms)
        sys.stdout.write(report(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
