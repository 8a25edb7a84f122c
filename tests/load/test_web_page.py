"""Locust's web UI with our form and tab: runs are started and stopped by a browser."""

import json
import os
import re
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
from tests.load.harness import LOCUSTFILE, ROOT, FakeApiProcess, LoadTest, fake_api, wait_for

expect.set_options(timeout=60_000)

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def chromium() -> None:
    """Skip without a browser; fail in CI, where everything must be tested."""
    if CHROMIUM is None:
        reason = "the tests of Locust's web UI need Debian's chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def locust_page(load_test: LoadTest, api: FakeApiProcess, *options: str) -> Iterator[str]:
    port = load_test.port_base + 2
    process = subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", LOCUSTFILE, f"--host={api.url}", *options],
        cwd=ROOT,
        env=load_test.environment,
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
    with urllib.request.urlopen(f"{url}/verdict.json") as response:
        body: dict[str, Any] = json.load(response)
    return body


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
        # The form shows the message of the command line.
        expect(page.get_by_text("rate must be a number of orders per second")).to_be_visible()
        assert api.truth()["orders"] == {}

        fill_and_start(page, rate="10", duration="60s", runId="from-the-form", sloTarget="0.95")
        page.get_by_role("tab", name="Verdict").click()
        expect(page.get_by_text(re.compile(r"[1-9]\d* in flight +0 late +at most .* late"))).to_be_visible()
        # 60 orders prove the target.
        wait_for(lambda: sum(order["outcome"] is not None for order in api.truth()["orders"].values()) >= 60)
        page.get_by_role("button", name="Stop").click()
        wait_for(lambda: has_verdict(url, "from-the-form"))
        report = verdict(url)["verdict"]
        expect(page.get_by_text(f"{report['verdict']} (exit code {report['exit_code']})")).to_be_visible()
        expect(page.get_by_text("no violation: 9 invariants checked on")).to_be_visible()
        expect(page.get_by_text("step charge", exact=True)).to_be_visible()
        expect(page.get_by_text("mean 120 ms, p50 120 ms, p90 120 ms")).to_be_visible()
        expect(
            page.get_by_text(f"http://127.0.0.1:{load_test.port_base + 1}/load_tests?run=from-the-form")
        ).to_be_visible()

        truth = api.truth()["orders"]
    # Beside a browser, a busy machine can delay the generator, which its verdict reports.
    assert report["exit_code"] == 0 or all(
        "on time" in each or "late" in each for each in report["run"]["problems"]
    )
    assert report["run"]["offered"] == len(truth) > 59
    assert report["run"]["unaccounted"] == 0, "orders in flight were drained"
    assert report["run"]["stopped_after_seconds"] < 60
    stored = load_test.stored("from-the-form")
    assert stored is not None
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == report["exit_code"]
    assert (load_test.home / "reports" / "from-the-form" / "locust.html").exists()


@pytest.mark.usefixtures("chromium")
def test_two_runs_one_after_the_other(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=100)) as api,
        locust_page(load_test, api) as url,
        browser_page() as page,
    ):
        page.goto(url)
        page.get_by_text("Custom parameters").click()
        fill_and_start(page, rate="10", duration="2s", runId="first")
        expect(page.get_by_role("button", name="New")).to_be_visible()
        page.get_by_role("button", name="New").click()
        page.get_by_text("Custom parameters").click()
        fill_and_start(page, rate="10", duration="2s", runId="first")
        expect(page.get_by_text("Run id first was used before")).to_be_visible()
        page.locator("input[name=excludeRejected]").check()
        fill_and_start(page, runId="second")
        expect(page.get_by_role("button", name="New")).to_be_visible()
        page.get_by_role("tab", name="Verdict").click()
        expect(page.get_by_text("not proven (exit code 5)")).to_be_visible()
        assert len(api.truth()["orders"]) == 40
    stored = load_test.stored("second")
    assert stored is not None
    assert stored.options["exclude_rejected"] is True


def test_autostart(load_test: LoadTest) -> None:
    options = ("--autostart", "--scenario=start-only", "--rate=10", "--duration=2s", "--run-id=autostart")
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api, *options) as url:
        wait_for(lambda: verdict(url)["verdict"] is not None)
        assert verdict(url)["verdict"]["run"]["offered"] == len(api.truth()["orders"]) == 20


def start(url: str, **fields: str) -> None:
    """Submit the form as the page does."""
    form = urllib.parse.urlencode({"user_count": "1", "spawn_rate": "100"} | fields).encode()
    with urllib.request.urlopen(f"{url}/swarm", form) as response:
        body = json.load(response)
    assert body["success"], body


def test_the_page_only_tests_the_api_it_was_started_for(load_test: LoadTest) -> None:
    """The API decides about roles, so another API could allow anything."""
    with fake_api() as api, fake_api() as other, locust_page(load_test, api) as url:
        form = {"user_count": "1", "spawn_rate": "1", "chaos": "1s kill order-worker", "host": other.url}
        with urllib.request.urlopen(f"{url}/swarm", urllib.parse.urlencode(form).encode()) as response:
            body = json.load(response)
        assert not body["success"]
        assert body["message"].startswith(f"This page only tests {api.url}.")
        assert other.truth()["orders"] == api.truth()["orders"] == {}
        short = {"scenario": "start-only", "rate": "10", "duration": "1s"}
        for host in ("", f"{api.url}/"):
            run_id = f"host-{len(host)}"
            start(url, **short, host=host, run_id=run_id)
            wait_for(lambda run_id=run_id: has_verdict(url, run_id))  # type: ignore[misc]
            wait_for(lambda: stopped(url))


def test_a_master_without_workers_refuses_the_form(load_test: LoadTest) -> None:
    port = load_test.port_base + 9
    options = ("--master", f"--master-bind-port={port}")
    with (
        fake_api() as api,
        locust_page(load_test, api, *options) as url,
        urllib.request.urlopen(f"{url}/swarm", b"user_count=1&spawn_rate=1") as response,
    ):
        body = json.load(response)
    assert body["message"] == "No worker is connected yet. Start a worker and retry."
    assert not body["success"]


def has_verdict(url: str, run_id: str) -> bool:
    report = verdict(url)["verdict"]
    return report is not None and report["run_id"] == run_id


def test_a_second_closed_run_uses_its_own_rate(load_test: LoadTest) -> None:
    closed = {"arrivals": "closed", "scenario": "start-only", "rate": "20", "user_count": "5"}
    with fake_api(Behaviour(completion_ms=100)) as api, locust_page(load_test, api) as url:
        for run_id, duration in (("first", "6s"), ("second", "4s")):
            start(url, **closed, run_id=run_id, duration=duration)
            wait_for(lambda run_id=run_id: has_verdict(url, run_id))  # type: ignore[misc]
            # Locust's users must have stopped too.
            wait_for(lambda: stopped(url))
        orders = list(api.truth()["orders"])

    assert sum(order.startswith("first-") for order in orders) > 60
    assert sum(order.startswith("second-") for order in orders) > 40


def stopped(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/stats/requests") as response:
        return bool(json.load(response)["state"] == "stopped")


@contextmanager
def locust_in_a_stack(load_test: LoadTest, api: FakeApiProcess) -> Iterator[tuple[Stack, str]]:
    """Start the component `locust` of the stack without the other components."""
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
def test_stopping_the_stack_finishes_the_active_run(load_test: LoadTest) -> None:
    with (
        fake_api(Behaviour(completion_ms=12_000)) as api,
        locust_in_a_stack(load_test, api) as (stack, url),
    ):
        start(url, scenario="start-only", duration="60s", faults="assignment", run_id="active")
        wait_for(lambda: api.truth()["orders"])
        stack.down()
        profiles = [change["profile"] for change in api.truth()["faults"]]

    assert profiles == ["assignment", "none"], "restored"
    report = json.loads((load_test.home / "reports" / "active" / "verdict.json").read_text())
    assert report["run"]["unaccounted"] == 0
    assert report["outcomes"] == {"completed": report["run"]["offered"]}


@pytest.mark.stack
def test_a_stack_without_a_run_stops_within_seconds(load_test: LoadTest) -> None:
    with fake_api() as api, locust_in_a_stack(load_test, api) as (stack, _):
        began = time.monotonic()
        stack.down()
        assert time.monotonic() - began < 8
