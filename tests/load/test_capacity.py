"""`loadtest capacity` with complete probes against the fake API."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from db import runs
from loadtest.proofs.capacity import run_probe
from orchestrator.errors import UsageError
from tests.load.fake_api import Behaviour
from tests.load.harness import FakeApiProcess, LoadTest, fake_api, interrupt, wait_for

WORDS = (
    "--faults=none",
    "--slo-target=0.8",
    "--min-rate=20",
    "--max-rate=30",
    "--duration=2s",
    "--id=search",
)


def searched(load_test: LoadTest, api: FakeApiProcess, *words: str) -> tuple[int, str]:
    process = load_test.start("capacity", f"--host={api.url}", *WORDS, *words)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_search_and_a_second_one_with_the_same_id(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        code, output = searched(load_test, api)
        orders = len(api.truth()["orders"])
        again, refusal = searched(load_test, api)
        assert len(api.truth()["orders"]) == orders

    assert code == 0, output
    assert "capacity  30 orders/s\n" in output
    results = json.loads((load_test.home / "reports" / "search" / "capacity.json").read_text())
    assert [(probe["rate"], probe["verdict"]) for probe in results["probes"]] == [
        (20, "passed"),
        (30, "passed"),
    ]
    assert sum(probe["orders"] for probe in results["probes"]) == orders
    assert (again, refusal.strip()) == (2, "Search id search was used before; choose another.")


def test_a_probe_is_aborted_when_its_rate_cannot_be_held(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=3_000)) as api:
        code, output = searched(load_test, api, "--slo-seconds=1", "--duration=30s")
        orders = len(api.truth()["orders"])

    assert code == 3, output
    assert "capacity  below 20 orders/s" in output
    # A fifth of 600 orders may be late; the probe stops when the target cannot be proven any more.
    assert 120 < orders < 300
    verdict = json.loads((load_test.home / "reports" / "search-1" / "verdict.json").read_text())
    assert verdict["verdict"] == "limit breached"
    assert verdict["run"]["stopped_after_seconds"] < 15


def test_a_search_ends_with_a_broken_invariant(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, violation=True)) as api:
        code, output = searched(load_test, api)

    assert code == 4, output
    assert "ended     invariant broken at 20/s, see run search-1" in output
    assert not (load_test.home / "reports" / "search-2").exists()


def test_ctrl_c_drains_the_probe_and_keeps_its_verdict(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=1_000)) as api:
        process = load_test.start("capacity", f"--host={api.url}", *WORDS, "--duration=60s")
        wait_for(lambda: len(api.truth()["orders"]) >= 30)
        interrupt(process)
        output, _ = process.communicate(timeout=60)
        outcomes = {order["outcome"] for order in api.truth()["orders"].values()}

    assert process.returncode == 5, output
    assert "ended     interrupted" in output
    assert outcomes == {"completed"}
    results = json.loads((load_test.home / "reports" / "search" / "capacity.json").read_text())
    assert len(results["probes"]) == 1


def test_results_are_kept_when_a_later_probe_is_rejected(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        process = load_test.start("capacity", f"--host={api.url}", *WORDS)
        wait_for(lambda: (load_test.home / "reports" / "search-1" / "verdict.json").exists())
        runs.open_run(load_test.order_database_url, a_run("search-2"))
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 5, output
    assert "capacity  20 orders/s\n" in output
    assert "ended     the next probe had no verdict: Run id search-2 was used before" in output
    results = json.loads((load_test.home / "reports" / "search" / "capacity.json").read_text())
    assert [probe["run_id"] for probe in results["probes"]] == ["search-1"]


def a_run(run_id: str) -> runs.NewRun:
    return runs.NewRun(run_id, "mixed", {}, [], None, None, datetime.now(UTC), None, {})


def test_a_probe_does_not_read_the_verdict_of_an_earlier_run(
    load_test: LoadTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in load_test.environment.items():
        monkeypatch.setenv(name, value)
    with fake_api(Behaviour(completion_ms=100)) as api:
        words = [f"--host={api.url}", "--scenario=start-only", "--duration=2s", "--slo-target=0.8"]
        reports: Path = load_test.home / "reports"
        assert run_probe(words, reports, "probe", 20).is_held
        with pytest.raises(UsageError, match="Run id probe was used before"):
            run_probe(words, reports, "probe", 20)


def test_a_second_ctrl_c_restores_the_faults_of_the_probe(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=10_000)) as api:
        words = [*WORDS[1:], "--faults=assignment", "--duration=60s"]
        process = load_test.start("capacity", f"--host={api.url}", *words)
        wait_for(lambda: len(api.truth()["orders"]) >= 30)
        interrupt(process)
        sent = [-1, len(api.truth()["orders"])]
        while sent[-1] != sent[-2]:
            time.sleep(0.3)
            sent.append(len(api.truth()["orders"]))
        interrupt(process)
        process.communicate(timeout=30)
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert process.returncode == 5
    assert profiles == ["assignment", "none"]
