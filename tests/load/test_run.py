"""Runs with failures beside their orders: unavailable components, interrupts, changed fault profiles."""

import re

import psycopg

from tests.load.fake_api import Behaviour
from tests.load.harness import LoadTest, fake_api, interrupt, unwrapped, wait_for
from tests.load.test_exit_codes import QUICK
from tests.servers import PostgresServer


def test_reports_that_cannot_be_written_do_not_change_the_exit_code(load_test: LoadTest) -> None:
    (load_test.home / "reports").write_text("a file where a directory should be")
    with fake_api(Behaviour(completion_ms=100)) as api:
        found = load_test.run(api, *QUICK)

    assert found.code == 5, found.output
    assert "the reports were not written" in unwrapped(found.output)
    stored = load_test.stored()
    assert stored is not None
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == 5


def test_a_fault_profile_that_was_changed_during_the_run_stays(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        options = ("--scenario=start-only", "--rate=20", "--duration=4s", "--faults=assignment")
        with load_test.started(api, *options) as process:
            wait_for(lambda: api.truth()["orders"])
            api.put("faults", {"profile": "lossy", "seed": 3})
            found = load_test.finished(process)
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert found.report["missing"] == []
    assert profiles == ["assignment", "lossy"]


def test_ctrl_c_before_the_first_order(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, faults_delay_seconds=2.0)) as api:
        options = ("--scenario=start-only", "--rate=20", "--duration=60s")
        with load_test.started(api, *options) as process:
            wait_for(lambda: api.truth()["operations"].get("faults"))
            interrupt(process)
            found = load_test.finished(process, timeout=30)
        orders = api.truth()["orders"]

    assert found.code == 6, found.output
    assert found.run["problems"] == ["no order was sent"]
    assert orders == {}


def test_an_outage_of_postgresql_during_the_run_is_measured(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        options = ("--scenario=start-only", "--rate=20", "--duration=9s", "--slo-target=0.9")
        with load_test.started(api, *options) as process:
            wait_for(lambda: api.truth()["orders"])
            api.put("behaviour", vars(Behaviour(database_unavailable=True)))
            probes = api.truth()["operations"]["health"]
            wait_for(lambda: api.truth()["operations"]["health"] > probes + 2)
            api.put("behaviour", vars(Behaviour(completion_ms=100)))
            found = load_test.finished(process)

    assert found.code == 0, found.output
    assert found.run["offered"] == 180, "the run continues"
    assert found.run["start_retries"] > 0
    (outage,) = found.run["outages"]
    assert re.fullmatch("PostgreSQL was unavailable for about [2-5] s", outage)
    assert outage in unwrapped(found.output)


def test_the_verdict_is_stored_when_postgresql_is_available_again(
    load_test: LoadTest, postgres: PostgresServer
) -> None:
    database = load_test.order_database_url.split("/@", 1)[-1].split("?")[0].rpartition("/")[2]

    def allow_connections(allowed: bool) -> None:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            statement = f"alter database {database} allow_connections {str(allowed).lower()}"
            connection.execute(statement.encode())

    with fake_api(Behaviour(completion_ms=100)) as api:
        options = ("--scenario=start-only", "--rate=20", "--duration=4s", "--slo-target=0.9")
        with load_test.started(api, *options) as process:
            wait_for(lambda: api.truth()["orders"])
            allow_connections(False)
            # The last request to the API; after it only the verdict is left to be stored.
            wait_for(lambda: api.truth()["operations"].get("latency.csv"))
            assert process.poll() is None, "waiting for PostgreSQL"
            allow_connections(True)
            found = load_test.finished(process)

    assert found.code == 0, found.output
    assert found.report["stored"]
    stored = load_test.stored()
    assert stored is not None
    assert stored.ended_at is not None


def test_two_runs_are_compared(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=300)) as api:
        load_test.run(api, *QUICK, run_id="before")
    with fake_api(Behaviour(completion_ms=500)) as api:
        found = load_test.run(api, *QUICK, "--compare=before", run_id="after")

    assert found.report["comparison"]["verdict"] == "worse"
    assert found.report["comparison"]["completion_ms"]["p50"]["difference"] == 200
    output = load_test.start("compare", "before", "after").communicate()[0]
    assert output.splitlines()[0] == "better"
