"""Locust's own page with our form and tab, started, run and stopped by a browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from orchestrator.embedded import Stack, components
from orchestrator.settings import Settings
from tests.load.fake_api import Behaviour
from tests.load.harness import ROOT, FakeApiProcess, LoadTest, fake_api, wait_for

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def chromium() -> None:
    """Where everything must be tested, a missing browser is a failure."""
    if CHROMIUM is None:
        sentence = "Locust's page is tested with Debian's chromium, which is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)


@contextmanager
def locust_page(load_test: LoadTest, api: FakeApiProcess, *words: str) -> Iterator[str]:
    port = load_test.port_base + 2
    process = subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", f"--host={api.url}", *words],
        cwd=ROOT,
        env=load_test.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def verdict(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/verdict.json") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def fill_and_start(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.fill(f"input[name={name}]", value)
    page.get_by_role("button", name="Start").last.click()


@pytest.mark.usefixtures("chromium")
def test_a_run_from_the_form_to_its_verdict(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=1_000)) as api,
        locust_page(load_test, api) as url,
        browser_page() as page,
    ):
        page.goto(url)
        page.get_by_text("Custom parameters").click()
        fill_and_start(page, rate="0")
        # Refused in the form, with the sentence of the command line.
        expect(page.get_by_text("rate must be a number of orders per second")).to_be_visible()
        assert api.truth()["orders"] == {}

        fill_and_start(page, rate="20", duration="60s", runId="from-the-form", sloTarget="0.95")
        page.get_by_role("tab", name="Verdict").click()
        expect(page.get_by_text("in flight", exact=True)).to_be_visible()
        expect(page.get_by_text("no violation: 9 invariants checked on")).to_be_visible(timeout=15_000)
        expect(page.get_by_text("with 95 % confidence")).to_be_visible(timeout=15_000)
        # So many prove the target.
        wait_for(lambda: sum(order["outcome"] is not None for order in api.truth()["orders"].values()) >= 60)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("passed (exit code 0)")).to_be_visible(timeout=30_000)
        expect(page.get_by_text("step charge", exact=True)).to_be_visible()
        expect(page.get_by_text("mean 120 ms, p50 120 ms, p90 120 ms")).to_be_visible()
        expect(
            page.get_by_text(f"http://127.0.0.1:{load_test.port_base + 1}/load_tests?run=from-the-form")
        ).to_be_visible()

        told = verdict(url)["verdict"]
        truth = api.truth()["orders"]
    assert told["run"]["offered"] == len(truth) > 59
    assert told["run"]["unaccounted"] == 0, "the stop has drained"
    assert told["run"]["stopped_after_seconds"] < 60
    stored = load_test.stored("from-the-form")
    assert stored is not None
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == 0
    assert (load_test.home / "reports" / "from-the-form" / "locust.html").exists()


@pytest.mark.usefixtures("chromium")
def test_a_run_that_ends_by_itself_and_another_one_after_it(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=100)) as api,
        locust_page(load_test, api) as url,
        browser_page() as page,
    ):
        page.goto(url)
        page.get_by_text("Custom parameters").click()
        fill_and_start(page, rate="10", duration="2s", runId="first")
        expect(page.get_by_role("button", name="New")).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="New").click()
        page.get_by_text("Custom parameters").click()
        fill_and_start(page, rate="10", duration="2s", runId="first")
        expect(page.get_by_text("Run id first was used before")).to_be_visible()
        fill_and_start(page, runId="second")
        expect(page.get_by_role("button", name="New")).to_be_visible(timeout=30_000)
        page.get_by_role("tab", name="Verdict").click()
        expect(page.get_by_text("not proven (exit code 5)")).to_be_visible()
        assert len(api.truth()["orders"]) == 40


def test_a_run_that_starts_by_itself(load_test: LoadTest) -> None:
    words = ("--autostart", "--scenario=start-only", "--rate=10", "--duration=2s", "--run-id=by-itself")
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api, *words) as url:
        wait_for(lambda: verdict(url)["verdict"] is not None)
        assert verdict(url)["verdict"]["run"]["offered"] == len(api.truth()["orders"]) == 20


def start(url: str, **fields: str) -> None:
    """Sends the form as the page does."""
    form = urllib.parse.urlencode({"user_count": "1", "spawn_rate": "100"} | fields).encode()
    with urllib.request.urlopen(f"{url}/swarm", form) as answer:
        told = json.load(answer)
    assert told["success"], told


def test_it_tests_the_api_that_it_was_started_for_and_no_other(load_test: LoadTest) -> None:
    """What a role may do is asked of the API, and one of somebody else's may say anything."""
    with fake_api() as api, fake_api() as other, locust_page(load_test, api) as url:
        form = {"user_count": "1", "spawn_rate": "1", "chaos": "1s kill order-worker", "host": other.url}
        with urllib.request.urlopen(f"{url}/swarm", urllib.parse.urlencode(form).encode()) as answer:
            told = json.load(answer)
        assert not told["success"]
        assert told["message"].startswith(f"This page only tests {api.url}.")
        assert other.truth()["orders"] == api.truth()["orders"] == {}
        short = {"scenario": "start-only", "rate": "10", "duration": "1s"}
        for host in ("", f"{api.url}/"):
            run_id = f"host-{len(host)}"
            start(url, **short, host=host, run_id=run_id)
            wait_for(lambda run_id=run_id: judged(url, run_id))  # type: ignore[misc]
            wait_for(lambda: stopped(url))


def test_a_master_without_workers_refuses_the_form(load_test: LoadTest) -> None:
    port = load_test.port_base + 9
    words = ("--master", f"--master-bind-port={port}")
    with (
        fake_api() as api,
        locust_page(load_test, api, *words) as url,
        urllib.request.urlopen(f"{url}/swarm", b"user_count=1&spawn_rate=1") as answer,
    ):
        told = json.load(answer)
    assert told["message"] == "No worker is connected yet. Start a worker, then try again."
    assert not told["success"]


def judged(url: str, run_id: str) -> bool:
    told = verdict(url)["verdict"]
    return told is not None and told["run_id"] == run_id


def test_a_second_closed_run_sends_at_its_own_pace(load_test: LoadTest) -> None:
    closed = {"arrivals": "closed", "scenario": "start-only", "rate": "20", "user_count": "5"}
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api) as url:
        for run_id, duration in (("first", "6s"), ("second", "4s")):
            start(url, **closed, run_id=run_id, duration=duration)
            wait_for(lambda run_id=run_id: judged(url, run_id))  # type: ignore[misc]
            # Locust's users have stopped too.
            wait_for(lambda: stopped(url))
        orders = list(api.truth()["orders"])

    assert sum(order.startswith("first-") for order in orders) > 60
    assert sum(order.startswith("second-") for order in orders) > 40


def stopped(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/stats/requests") as answer:
        return bool(json.load(answer)["state"] == "stopped")


@contextmanager
def locust_in_a_stack(load_test: LoadTest, api: FakeApiProcess) -> Iterator[tuple[Stack, str]]:
    """The stack's own component, of all its components alone."""
    settings = Settings(
        orders_home=load_test.home,
        port_base=load_test.port_base,
        database_url=load_test.order_database_url,
        temporal_address="127.0.0.1:1",
    )
    (locust,) = (each for each in components.components(settings) if each.name == "locust")
    stack = Stack(settings, [replace(locust, environment={"API_URL": api.url})])
    stack.up()
    try:
        yield stack, f"http://127.0.0.1:{settings.port('locust')}"
    finally:
        stack.down()


@pytest.mark.stack
def test_a_stack_that_stops_has_the_run_under_way_judged(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=12_000)) as api,
        locust_in_a_stack(load_test, api) as (stack, url),
    ):
        start(url, scenario="start-only", duration="60s", faults="assignment", run_id="under-way")
        wait_for(lambda: api.truth()["orders"])
        stack.down()
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert profiles == ["assignment", "none"], "put back"
    told = json.loads((load_test.home / "reports" / "under-way" / "verdict.json").read_text())
    assert told["run"]["unaccounted"] == 0
    assert told["outcomes"] == {"completed": told["run"]["offered"]}


@pytest.mark.stack
def test_a_stack_without_a_run_stops_at_once(load_test: LoadTest) -> None:
    with fake_api() as api, locust_in_a_stack(load_test, api) as (stack, _):
        began = time.monotonic()
        stack.down()
        assert time.monotonic() - began < 8
