"""Each exit code, forced once for real; and what a run leaves behind."""

import os
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import psutil
import psycopg
import pytest

from tests.load.driving import ROOT, RUN_ID, LoadTest, end, fake_api, interrupt, wait_for, wait_for_line
from tests.load.fake_api import Behaviour
from tests.servers import PostgresServer

QUICK = ("--scenario=start-only", "--rate=30", "--duration=2s")


def test_0_passed_and_everything_that_is_left_behind(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=200)) as api:
        words = (
            "--scenario=start-only",
            "--stages=2s@20,1s@20..30",
            "--slo-target=0.95",
            "--faults=assignment",
            "--seed=7",
        )
        found = load_test.run(api, *words)
        faults = api.truth()["faults"]

    assert found.code == 0, found.output
    assert "passed" in found.output
    assert {file.name for file in found.directory.iterdir()} == {
        "verdict.json", "junit.xml", "summary.md", "orders.csv",
        "locust_stats.csv", "locust_failures.csv", "locust_exceptions.csv", "locust.html",
    }  # fmt: skip
    assert ElementTree.parse(found.directory / "junit.xml").getroot().attrib["failures"] == "0"
    assert len((found.directory / "orders.csv").read_text().splitlines()) == 1 + found.limit["orders"]
    assert "| step charge |  | 120 | 120 | 120 |" in (found.directory / "summary.md").read_text()
    assert faults == [{"profile": "assignment", "seed": 7}, {"profile": "none", "seed": 0}], "put back"
    stored = load_test.stored()
    assert stored is not None
    assert (stored.scenario, stored.fault_profile, stored.fault_seed) == ("start-only", "assignment", 7)
    assert stored.stages == [
        {"seconds": 2.0, "rate": 20.0, "end_rate": 20.0},
        {"seconds": 1.0, "rate": 20.0, "end_rate": 30.0},
    ]
    assert stored.ended_at is not None
    assert stored.ended_at > stored.started_at
    assert stored.started_at.isoformat(timespec="milliseconds") == found.report["started_at"], (
        "the run's zero"
    )
    assert found.report["missing"] == []
    assert stored.machine["cpus"] == os.cpu_count()
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == 0
    assert stored.statistics is not None
    assert [row["offered"] for row in stored.statistics[:3]] == [20, 20, 25]


def test_1_crashed(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, audit_is_nonsense=True)) as api:
        found = load_test.run(api, *QUICK)

    assert found.code == 1
    assert "this should not have happened" in found.output


def test_reports_that_cannot_be_written_change_no_verdict(load_test: LoadTest) -> None:
    (load_test.home / "reports").write_text("a file where a directory should be")
    with fake_api(Behaviour(completion_ms=100)) as api:
        found = load_test.run(api, *QUICK)

    assert found.code == 5, found.output
    assert "the reports were not written" in unwrapped(found.output)
    stored = load_test.stored()
    assert stored is not None
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == 5


def test_shed_orders_are_late_unless_they_may_be_shed(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=200, shed_every=2)) as api:
        late = load_test.run(api, *QUICK, "--slo-target=0.8", run_id="late")
        apart = load_test.run(api, *QUICK, "--slo-target=0.8", "--exclude-rejected", run_id="apart")

    assert (late.code, late.limit["orders"], late.limit["late"]) == (3, 60, 30), late.output
    assert (apart.code, apart.limit["orders"], apart.limit["late"]) == (0, 30, 0), apart.output
    assert late.run["rejected"] == apart.run["rejected"] == 30
    assert apart.locust_rows["start, rejected"]["Request Count"] == "30"
    assert apart.locust_rows["Aggregated"]["Failure Count"] == "0"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--scenario=nonsense",), "Unknown scenario 'nonsense'. Choose one of: mixed,"),
        (
            ("--stages=30s",),
            "stages must be steps such as 30s@2,60s@10 or a ramp such as 30s@2..10, not 30s.",
        ),
        (("--rate=0",), "rate must be a number of orders per second, more than 0"),
        (("--rate=-3",), "rate must be a number of orders per second, more than 0"),
        (("--rate=nan",), "rate must be a number of orders per second, more than 0"),
        (("--chaos=10s explode api",), "chaos: 'explode' is not one of"),
        (("--chaos=900s kill api",), "lies outside the run"),
        (("--slo-target=1",), "slo-target must be between 0 and 1 (for example 0.99), not 1."),
        (("--compare=nobody",), "there is no finished run nobody"),
    ],
)
def test_2_wrong_usage(load_test: LoadTest, words: tuple[str, ...], sentence: str) -> None:
    with fake_api() as api:
        found = load_test.run(api, *words)
        asked = api.truth()["requests"]

    assert found.code == 2, found.output
    assert sentence in found.output
    assert len(found.output.strip().splitlines()) == 1
    # Whether all is well, whose key it is, what faults are in force; and no order.
    assert asked <= 3
    assert load_test.stored() is None


def test_2_a_run_id_is_used_once(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        load_test.run(api, *QUICK)
        again = load_test.run(api, *QUICK)
        assert len(api.truth()["orders"]) == 60, "none of the second run"

    assert again.code == 2
    assert f"run id {RUN_ID} was used before" in again.output


def test_2_one_run_at_a_time_sets_the_faults(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=60s", "--faults=assignment")
        with load_test.started(api, *words) as process:
            wait_for(lambda: api.truth()["orders"])
            refused = load_test.run(api, *QUICK, "--faults=slow", run_id="second")
            without = load_test.run(api, *QUICK, run_id="third")
            interrupt(process)
            load_test.finished(process)
        again = load_test.run(api, *QUICK, "--faults=slow", run_id="fourth")
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert refused.code == 2
    assert f"run {RUN_ID} has set the fault profile and is not over" in refused.output
    assert without.code == again.code == 5
    assert profiles == ["assignment", "none", "slow", "none"]


def test_a_profile_that_somebody_set_during_the_run_stays(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=4s", "--faults=assignment")
        with load_test.started(api, *words) as process:
            wait_for(lambda: api.truth()["orders"])
            api.put("faults", {"profile": "lossy", "seed": 3})
            found = load_test.finished(process)
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert found.report["missing"] == []
    assert profiles == ["assignment", "lossy"]


def test_ctrl_c_before_the_first_order_sends_none(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, faults_told_after_seconds=2.0)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=60s")
        with load_test.started(api, *words) as process:
            wait_for(lambda: api.truth()["operations"].get("faults"))
            interrupt(process)
            found = load_test.finished(process, timeout=30)
        orders = api.truth()["orders"]

    assert found.code == 6, found.output
    assert found.run["problems"] == ["no order was sent"]
    assert orders == {}


def test_2_nobody_there(load_test: LoadTest) -> None:
    with fake_api() as api:
        pass
    no_api = load_test.run(api, *QUICK)
    assert no_api.code == 2
    assert "no API answers at" in no_api.output
    with fake_api(Behaviour(healthy=False)) as api:
        unhealthy = load_test.run(api, *QUICK)
    assert unhealthy.code == 2
    assert "is not healthy (temporal)" in unhealthy.output
    load_test.environment["DATABASE_URL"] = f"postgresql://postgres@/nothing?host={load_test.home}"
    with fake_api() as api:
        no_books = load_test.run(api, *QUICK)
    assert no_books.code == 2
    assert "no database answers where runs are stored" in no_books.output
    assert load_test.stored() is None


def plain_locust(load_test: LoadTest, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", *words],
        cwd=ROOT, env=load_test.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("--rate=0", "rate must be a number of orders per second, more than 0"),
        ("--scenario=nonsense", "Unknown scenario 'nonsense'. Choose one of: mixed, start-only,"),
        ("--arrivals=nonsense", "Unknown arrivals 'nonsense'. Choose one of: constant, poisson, closed."),
        ("--faults=nonsense", "Unknown faults 'nonsense'. Choose one of: unchanged, none, assignment,"),
    ],
)
def test_2_from_plain_locust_too(load_test: LoadTest, word: str, sentence: str) -> None:
    done = plain_locust(load_test, word)
    assert done.returncode == 2
    # Locust itself may have said that it starts.
    told = [line for line in done.stderr.splitlines() if "Starting Locust" not in line]
    assert len(told) == 1
    assert told[0].startswith(sentence)


def test_plain_locust_takes_flags(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, shed_every=2)) as api:
        words = (*QUICK, "--run-id=flags", "--slo-target=0.8", "--exclude-rejected", "--abort-on-breach")
        done = plain_locust(load_test, f"--host={api.url}", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 rejected (429)" in unwrapped(done.stdout)


def test_2_a_master_that_others_can_reach_needs_keys(load_test: LoadTest) -> None:
    with fake_api() as api:
        words = (*QUICK, "--master", "--master-bind-host=0.0.0.0", f"--master-port={load_test.port_base + 9}")
        found = load_test.run(api, *words)
    assert found.code == 2
    assert "the master of the load tests cannot listen on 0.0.0.0 without API keys" in found.output


def test_a_master_listens_where_it_is_told_to(load_test: LoadTest) -> None:
    at = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api:
        worker = load_test.start("run", "--worker", "--master-host=127.0.0.2", at, f"--host={api.url}")
        try:
            words = (*QUICK, "--slo-target=0.9", "--master", "--master-bind-host=127.0.0.2", at)
            found = load_test.run(api, *words)
        finally:
            worker.kill()
            worker.communicate()
    assert found.code == 0, found.output
    assert found.run["offered"] == 60


def test_a_worker_asks_the_api_that_it_was_started_for(load_test: LoadTest) -> None:
    at = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api, fake_api(Behaviour(completion_ms=100)) as other:
        worker = load_test.start("run", "--worker", at, f"--host={api.url}")
        try:
            load_test.run(other, *QUICK, "--master", at)
        finally:
            worker.kill()
            worker.communicate()
        assert len(api.truth()["orders"]) == 60
        assert other.truth()["orders"] == {}


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_master_waits_for_its_workers_and_not_for_ever(load_test: LoadTest, is_interrupted: bool) -> None:
    words = ("--master", "--expect-workers=2", "--expect-workers-max-wait=3")
    with (
        fake_api() as api,
        load_test.started(api, *QUICK, *words, f"--master-port={load_test.port_base + 9}") as process,
    ):
        line = wait_for_line(process, containing="Waiting for")
        if is_interrupted:
            interrupt(process)
        found = load_test.finished(process)

    assert line == "Waiting for 2 workers, at most 3 s; 0 connected so far.\n"
    sentence = (
        "interrupted while workers were waited for"
        if is_interrupted
        else "0 of 2 workers connected within 3 s"
    )
    assert found.output.startswith(sentence)
    assert len(found.output.splitlines()) == 1
    assert found.code == (6 if is_interrupted else 2)
    assert load_test.stored() is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--processes=x"), "Invalid value for '--processes': "),
        (("compare", "one", "other"), "no database answers where runs are stored"),
    ],
)
def test_2_in_one_sentence(load_test: LoadTest, words: tuple[str, ...], sentence: str) -> None:
    load_test.environment["DATABASE_URL"] = f"postgresql://postgres@/nothing?host={load_test.home}"
    process = load_test.start(*words)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith(sentence)
    assert len(output.splitlines()) == 1


def test_3_limit_breached(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, slow_every=10, slow_ms=2_400)) as api:
        found = load_test.run(api, *QUICK, "--slo-seconds=2")

    assert found.code == 3
    assert (found.limit["late"], found.limit["orders"]) == (6, 60)
    assert len((found.directory / "orders.csv").read_text().splitlines()) == 1 + 60
    junit = ElementTree.parse(found.directory / "junit.xml").getroot()
    assert [case.attrib["name"] for case in junit if len(case)] == ["limit"]


def test_4_invariant_broken(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, violation=True)) as api:
        found = load_test.run(api, *QUICK, "--slo-target=0.9")

    assert found.code == 4
    assert "charged twice" in found.output


def test_4_a_duplicate_that_was_accepted(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, accept_duplicates=True)) as api:
        found = load_test.run(api, "--scenario=resubmit", "--rate=30", "--duration=2s", "--slo-target=0.9")

    assert found.code == 4
    assert "another order under the same id was answered 200" in unwrapped(found.output)


def test_4_a_cancel_that_was_accepted_too_late(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, accept_late_cancels=True)) as api:
        found = load_test.run(api, "--scenario=cancel-storm", "--rate=20", "--duration=1s")

    assert found.code == 4, found.output
    assert "its cancel was accepted, and it completed" in unwrapped(found.output)


def unwrapped(output: str) -> str:
    """The words of a panel, wherever the terminal's width broke its lines."""
    return " ".join(output.replace("│", " ").split())


def test_5_not_proven(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        found = load_test.run(api, *QUICK)

    assert found.code == 5
    assert found.limit["more_needed"] == 299 - 60
    assert "239 more orders" in unwrapped(found.output)


def test_6_the_generator_fell_behind(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        words = ("--scenario=start-only", "--rate=30", "--duration=6s", "--slo-target=0.95")
        with load_test.started(api, *words) as process:
            wait_for(lambda: len(api.truth()["orders"]) > 30)
            process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            wait_for(lambda: time.monotonic() - stopped > 2.5)
            process.send_signal(signal.SIGCONT)
            found = load_test.finished(process)

    assert found.code == 6, found.output
    assert found.limit["verdict"] == "met", "what the run seems to show"
    assert found.run["offered"] == 180
    assert found.run["lag_ms"]["max"] > 2_000


@pytest.mark.parametrize("lost", [1, 2])
def test_6_workers_were_lost(load_test: LoadTest, lost: int) -> None:
    with fake_api(Behaviour(completion_ms=500)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=3s", "--slo-target=0.5")
        with load_test.started(api, *words, mode="processes") as process:
            wait_for(lambda: len(api.truth()["orders"]) > 10)
            for worker in psutil.Process(process.pid).children()[:lost]:
                worker.kill()
            # Without any worker Locust stops the test by itself, and would then wait for ever.
            found = load_test.finished(process, timeout=60)

    assert found.code == 6, found.output
    assert found.run["lost_workers"] == lost
    assert any("were lost" in problem for problem in found.run["problems"])


def test_6_orders_were_lost(load_test: LoadTest) -> None:
    words = (*QUICK, "--slo-seconds=1", "--drain-seconds=3", f"--run-id={RUN_ID}")
    with fake_api(Behaviour(never_every=1)) as api:
        locust = ("-m", "locust", "--headless", "--only-summary", "-f", "tests/load/impatient_locustfile.py")
        process = load_test.start(*words, f"--host={api.url}", program=locust)
        try:
            wait_for(lambda: len(api.truth()["orders"]) == 60)
            api.process.kill()
            found = load_test.finished(process)
        finally:
            end(process)

    assert found.code == 6, found.output
    # Everything that is asked afterwards shares the time in which the API could have come back.
    assert found.report["verdict_seconds"] < 3 + 5
    assert [each.split(":")[0] for each in found.report["missing"]] == [
        "the books were not audited",
        "the steps of the orders are not known",
        "orders.csv is missing",
    ]
    assert "orders.csv is missing" in unwrapped(found.output)
    assert found.run["unaccounted"] == 60
    assert not found.report["database"]["audited"]
    assert any("the API did not answer" in outage for outage in found.run["outages"])


def test_postgresql_that_is_away_while_orders_are_sent_is_counted(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=9s", "--slo-target=0.9")
        with load_test.started(api, *words) as process:
            wait_for(lambda: api.truth()["orders"])
            api.put("behave", vars(Behaviour(books_away=True)))
            asked = api.truth()["operations"]["health"]
            wait_for(lambda: api.truth()["operations"]["health"] > asked + 2)
            api.put("behave", vars(Behaviour(completion_ms=100)))
            found = load_test.finished(process)

    assert found.code == 0, found.output
    assert found.run["offered"] == 180, "the run goes on"
    assert found.run["start_retries"] > 0
    (outage,) = found.run["outages"]
    assert re.fullmatch("PostgreSQL was away for about [2-5] s", outage)
    assert outage in unwrapped(found.output)


def test_two_runs_are_compared(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=300)) as api:
        load_test.run(api, *QUICK, run_id="before")
    with fake_api(Behaviour(completion_ms=500)) as api:
        found = load_test.run(api, *QUICK, "--compare=before", run_id="after")

    assert found.report["comparison"]["verdict"] == "worse"
    assert found.report["comparison"]["completion_ms"]["p50"]["difference"] == 200
    words = load_test.start("compare", "before", "after").communicate()[0]
    assert words.splitlines()[0] == "better"


def test_books_that_are_away_at_the_end_are_waited_for(load_test: LoadTest, postgres: PostgresServer) -> None:
    database = load_test.order_database_url.split("/@", 1)[-1].split("?")[0].rpartition("/")[2]

    def accept_connections(yes: bool) -> None:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"alter database {database} allow_connections {str(yes).lower()}".encode())

    with fake_api(Behaviour(completion_ms=100)) as api:
        words = ("--scenario=start-only", "--rate=20", "--duration=4s", "--slo-target=0.9")
        with load_test.started(api, *words) as process:
            wait_for(lambda: api.truth()["orders"])
            accept_connections(False)
            # The last thing that is asked of the API; what is left is to store the verdict.
            wait_for(lambda: api.truth()["operations"].get("latency.csv"))
            assert process.poll() is None, "waiting for the books"
            accept_connections(True)
            found = load_test.finished(process)

    assert found.code == 0, found.output
    assert found.report["stored"]
    stored = load_test.stored()
    assert stored is not None
    assert stored.ended_at is not None
