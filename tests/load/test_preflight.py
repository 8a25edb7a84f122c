"""Runs that are refused before an order is sent: one sentence, exit code 2, nothing stored."""

import subprocess
import sys

import pytest

from db import runs
from loadtest.preflight import require_database
from orchestrator.errors import UsageError, WrongCredentials
from tests.load.fake_api import Behaviour
from tests.load.harness import LOCUSTFILE, ROOT, RUN_ID, LoadTest, fake_api, interrupt, unwrapped, wait_for
from tests.load.test_exit_codes import QUICK
from tests.servers import PostgresServer


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--scenario=nonsense", "Unknown scenario 'nonsense'. Choose one of: mixed,"),
        ("--stages=30s", "stages must be steps such as 30s@2,60s@10 or a ramp such as 30s@2..10, not 30s."),
        ("--rate=0", "rate must be a number of orders per second, more than 0"),
        ("--rate=-3", "rate must be a number of orders per second, more than 0"),
        ("--rate=nan", "rate must be a number of orders per second, more than 0"),
        ("--chaos=10s explode api", "Unknown chaos verb 'explode'. Choose one of: kill,"),
        ("--chaos=900s kill api", "is outside the run of 60 s."),
        ("--slo-target=1", "slo-target must be between 0 and 1 (for example 0.99), not 1."),
        ("--compare=unknown", "There is no finished run unknown to compare with."),
    ],
)
def test_invalid_options(load_test: LoadTest, option: str, sentence: str) -> None:
    with fake_api() as api:
        found = load_test.run(api, option)
        requests = api.truth()["requests"]

    assert found.code == 2, found.output
    assert sentence in found.output
    assert len(found.output.strip().splitlines()) == 1
    # At most health, role and fault profile were requested.
    assert requests <= 3
    assert load_test.stored() is None


def plain_locust(load_test: LoadTest, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", *options],
        cwd=ROOT, env=load_test.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--rate=0", "rate must be a number of orders per second, more than 0"),
        ("--scenario=nonsense", "Unknown scenario 'nonsense'. Choose one of: mixed, start-only,"),
        ("--arrivals=nonsense", "Unknown arrivals 'nonsense'. Choose one of: constant, poisson, closed."),
        ("--faults=nonsense", "Unknown faults 'nonsense'. Choose one of: unchanged, none, assignment,"),
    ],
)
def test_invalid_options_of_plain_locust(load_test: LoadTest, option: str, sentence: str) -> None:
    done = plain_locust(load_test, option)
    assert done.returncode == 2
    # Locust may have logged its start.
    lines = [line for line in done.stderr.splitlines() if "Starting Locust" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(sentence)


def test_plain_locust_accepts_flags(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100, reject_every=2)) as api:
        options = (*QUICK, "--run-id=flags", "--slo-target=0.5", "--exclude-rejected", "--abort-on-breach")
        done = plain_locust(load_test, f"--host={api.url}", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 rejected (429)" in unwrapped(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--processes=x"), "Invalid value for '--processes': "),
        (("compare", "one", "other"), "PostgreSQL, which stores runs, is not responding at DATABASE_URL."),
    ],
)
def test_a_failed_command_prints_one_sentence(
    load_test: LoadTest, arguments: tuple[str, ...], sentence: str
) -> None:
    load_test.environment["DATABASE_URL"] = f"postgresql://postgres@/nothing?host={load_test.home}"
    process = load_test.start(*arguments)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith(sentence)
    assert len(output.splitlines()) == 1


def test_a_run_id_is_used_once(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        load_test.run(api, *QUICK)
        again = load_test.run(api, *QUICK)
        assert len(api.truth()["orders"]) == 60, "no orders of the second run"

    assert again.code == 2
    assert f"Run id {RUN_ID} was used before" in again.output


def test_only_one_run_at_a_time_sets_the_fault_profile(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        options = ("--scenario=start-only", "--rate=20", "--duration=60s", "--faults=assignment")
        with load_test.started(api, *options) as process:
            wait_for(lambda: api.truth()["orders"])
            refused = load_test.run(api, *QUICK, "--faults=slow", run_id="second")
            without = load_test.run(api, *QUICK, run_id="third")
            interrupt(process)
            load_test.finished(process)
        again = load_test.run(api, *QUICK, "--faults=slow", run_id="fourth")
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert refused.code == 2
    assert f"Run {RUN_ID} has set the fault profile and has not ended" in refused.output
    assert without.code == again.code == 5
    assert profiles == ["assignment", "none", "slow", "none"]


def test_unavailable_components(load_test: LoadTest) -> None:
    with fake_api() as api:
        pass
    no_api = load_test.run(api, *QUICK)
    assert no_api.code == 2
    assert "is not responding. Start the stack with `make up`." in no_api.output
    with fake_api(Behaviour(healthy=False)) as api:
        unhealthy = load_test.run(api, *QUICK)
    assert unhealthy.code == 2
    assert "is not healthy (temporal)." in unhealthy.output
    load_test.environment["DATABASE_URL"] = f"postgresql://postgres@/nothing?host={load_test.home}"
    with fake_api() as api:
        no_database = load_test.run(api, *QUICK)
    assert no_database.code == 2
    assert "PostgreSQL, which stores runs, is not responding at DATABASE_URL." in no_database.output
    assert load_test.stored() is None


def test_a_rejected_database_user_is_not_called_an_outage() -> None:
    with (
        pytest.raises(UsageError, match=r"The run cannot be stored: The database rejected the credentials\."),
        require_database(),
    ):
        raise WrongCredentials


def test_a_database_without_migrations(postgres: PostgresServer) -> None:
    with (
        postgres.fresh_database(template="template0") as url,
        pytest.raises(UsageError, match=r"has no table of load tests\. Apply the migrations"),
        require_database(),
    ):
        runs.run_id_exists(url, "r")
