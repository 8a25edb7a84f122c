"""Locust's statistics: the percentiles of the verdict, and complete files of `--csv`."""

import csv
from pathlib import Path

from tests.load.fake_api import Behaviour
from tests.load.harness import LOCUSTFILE, RUN_ID, LoadTest, end, fake_api


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="") as opened:
        return {row["Name"]: row for row in csv.DictReader(opened)}


def test_the_files_of_csv_have_every_order(load_test: LoadTest, tmp_path: Path) -> None:
    prefix = tmp_path / "locust"
    options = (
        "--scenario=start-only",
        "--rate=50",
        "--duration=2s",
        f"--run-id={RUN_ID}",
        "--slo-target=0.9",
    )
    with fake_api(Behaviour(completion_ms=500, slow_every=50, slow_ms=900)) as api:
        command = ("-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary")
        process = load_test.start(*options, f"--csv={prefix}", f"--host={api.url}", program=command)
        try:
            found = load_test.finished(process)
        finally:
            end(process)
    assert found.code == 0, found.output
    written, reported = rows(tmp_path / "locust_stats.csv"), found.locust_rows
    times = found.report["times"]["completion_ms"]
    for each in (written["completion"], reported["completion"]):
        assert each["Request Count"] == "100" == str(times["count"])
        assert (each["50%"], each["95%"], each["99%"], each["100%"]) == tuple(
            f"{times[name]:.0f}" for name in ("p50", "p95", "p99", "max")
        )
    assert written == reported
    # The 99th of 100 is one of the two slow orders; Locust's own rank is one higher.
    assert written["completion"]["98%"] == "500"
    last = list(csv.DictReader((tmp_path / "locust_stats_history.csv").read_text().splitlines()))[-1]
    assert last["Total Request Count"] == written["Aggregated"]["Request Count"]
