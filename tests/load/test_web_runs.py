"""Requests to Locust's web UI beside a run, and options of Locust."""

import json
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.load.fake_api import Behaviour
from tests.load.harness import LOCUSTFILE, LoadTest, end, fake_api, wait_for
from tests.load.test_preflight import plain_locust
from tests.load.test_web_page import has_verdict, locust_page, start, stopped

QUICK = {"scenario": "start-only", "rate": "20", "duration": "2s", "slo_target": "0.5"}
LONG = QUICK | {"duration": "60s"}
ACTIVE = "A run is active. Stop it first."


def swarm(url: str, **fields: str) -> dict[str, Any]:
    """Submit the form and return the response, also of a refusal."""
    form = urllib.parse.urlencode({"user_count": "1", "spawn_rate": "100"} | fields).encode()
    with urllib.request.urlopen(f"{url}/swarm", form) as response:
        body: dict[str, Any] = json.load(response)
    return body


def post(url: str, content: bytes = b"") -> int:
    try:
        with urllib.request.urlopen(url, content) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_of_two_starts_at_once_one_is_refused(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api) as url:
        with ThreadPoolExecutor(2) as pool:
            answers = dict(
                zip("ab", pool.map(lambda run_id: swarm(url, **LONG, run_id=run_id), "ab"), strict=True)
            )
        (started,) = (run_id for run_id, answer in answers.items() if answer["success"])
        (refused,) = (answer["message"] for answer in answers.values() if not answer["success"])
        wait_for(lambda: len(api.truth()["orders"]) > 40)
        assert swarm(url, **LONG)["message"] == refused == ACTIVE
        post(f"{url}/stop")
        wait_for(lambda: has_verdict(url, started))
        orders = list(api.truth()["orders"])

    report = load_test.stored(started)
    assert report is not None
    assert report.verdict is not None
    # A busy machine delays orders.
    assert all("on time" in each or "late" in each for each in report.verdict["run"]["problems"])
    assert report.verdict["run"]["unaccounted"] == 0
    assert report.verdict["run"]["offered"] == len(orders)
    assert {order_id.partition("-")[0] for order_id in orders} == {started}


def test_a_start_that_locust_rejects_does_not_prevent_the_next(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api) as url:
        assert "spawn_rate" in swarm(url, **QUICK, spawn_rate="0")["message"]
        start(url, **QUICK, run_id="next")
        wait_for(lambda: has_verdict(url, "next"))
        assert len(api.truth()["orders"]) == 40


def test_a_run_keeps_its_users_and_its_statistics(load_test: LoadTest) -> None:
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api) as url:
        start(url, **LONG, run_id="reset")
        wait_for(lambda: len(api.truth()["orders"]) > 40)
        assert post(f"{url}/stats/reset") == 409
        assert post(f"{url}/user", b'{"user_class_name": "StartOnlyUser", "weight": 3}') == 409
        post(f"{url}/stop")
        wait_for(lambda: has_verdict(url, "reset") and stopped(url))
        orders = len(api.truth()["orders"])
        assert post(f"{url}/stats/reset") == 200
    stats = (load_test.home / "reports" / "reset" / "locust_stats.csv").read_text()
    assert f"\nORDER,completion,{orders},0," in stats
    assert f"\n,Aggregated,{orders},0," in stats


def test_the_page_works_below_a_path(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=100)) as api,
        locust_page(load_test, api, "--web-base-path=/locust") as root,
    ):
        url = f"{root}/locust"
        assert "rate must be a number" in swarm(url, **QUICK | {"rate": "0"})["message"]
        start(url, **QUICK, run_id="below")
        wait_for(lambda: has_verdict(url, "below"))
        with urllib.request.urlopen(f"{url}/stats/requests") as response:
            rows = json.load(response)["extended_stats"][0]["data"]
        assert {"subject": "verdict", "result": "passed (exit code 0)"} in rows
        with urllib.request.urlopen(f"{url}/") as response:
            assert "window.open(text" in response.read().decode()
        assert post(f"{root}/swarm") == 404


def test_autoquit_ends_the_process_after_the_verdict(load_test: LoadTest) -> None:
    locust = ("-m", "locust", "-f", LOCUSTFILE, "--autostart", "--autoquit=0")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    with fake_api(Behaviour(completion_ms=100, slow_every=2, slow_ms=1_500)) as api:
        process = load_test.start(
            *options,
            "--slo-target=0.9",
            "--slo-seconds=1",
            "--run-id=the-run",
            f"--host={api.url}",
            program=locust,
        )
        try:
            found = load_test.finished(process, timeout=40)
        finally:
            end(process)
    assert found.code == 3, found.output
    assert found.limit["late"] == 20


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("StartOnlyUser", "A user class as argument is not supported. Choose the scenario with --scenario."),
        ("--reset-stats", "--reset-stats is not supported. The statistics are part of the reports."),
    ],
)
def test_options_of_locust_that_would_change_a_run_are_refused(
    load_test: LoadTest, option: str, sentence: str
) -> None:
    with fake_api() as api:
        done = plain_locust(load_test, f"--host={api.url}", "--skip-log-setup", option)
        assert api.truth()["orders"] == {}
    assert (done.returncode, done.stderr) == (2, f"{sentence}\n")


def test_json_is_printed_alone(load_test: LoadTest) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    with fake_api(Behaviour(completion_ms=100)) as api:
        done = plain_locust(load_test, f"--host={api.url}", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert {row["name"]: row["num_requests"] for row in json.loads(done.stdout)} == {
        "start": 40, "completion": 40,
    }  # fmt: skip
    assert "verdict  passed" in done.stderr


def test_variables_and_configuration_files_of_locust_have_no_effect(load_test: LoadTest) -> None:
    home = load_test.home / "home"
    home.mkdir()
    (home / ".locust.conf").write_text("autostart = true\nrun-time = 1s\ntags = [a]\nhost = http://other\n")
    load_test.environment |= {
        "HOME": str(home),
        "LOCUST_RUN_TIME": "1s",
        "LOCUST_USERS": "7",
        "LOCUST_USER_CLASSES": "MixedUser",
        "LOCUST_RESET_STATS": "true",
        "LOCUST_CSV": str(home / "statistics"),
    }
    with fake_api(Behaviour(completion_ms=100)) as api:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
        found = load_test.run(api, *options)
    assert found.code == 0, found.output
    assert found.run["offered"] == 40
    assert found.run["stopped_after_seconds"] is None
    assert sorted(path.name for path in home.iterdir()) == [".locust.conf"]
