"""The page Stage in a browser: the picture moves, and a worker is killed, recorded and drawn."""

import re

import psycopg
import pytest
from playwright.sync_api import FrameLocator, expect

from loadtest.bench.seed import seed_recent
from orchestrator.embedded import Stack
from tests.browser.conftest import Open, screenshot
from tests.live import LiveApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

IN_FLIGHT = 200
FRAMES_PER_SECOND = 10
"""Beside another browser and another stack. Alone, `python -m tests.bench.playback` draws 60."""


def picture_of(page) -> FrameLocator:
    frame = page.frame_locator(".st-key-picture iframe")
    frame.locator("body[data-ready=true]").wait_for()
    return frame


@pytest.mark.parametrize("theme", ["light", "dark", "narrow"])
def test_the_stage_fills_the_screen(open_page: Open, live: LiveApi, theme: str):
    page = open_page("/stage", theme)
    live.start(review="manual")
    frame = picture_of(page)
    expect(frame.locator("[data-part=orders]")).not_to_have_text(re.compile("^(0|–)$"))
    expect(page.get_by_test_id("stHeader")).to_be_hidden()
    assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    picture = page.locator(".st-key-picture iframe").bounding_box()
    controls = page.get_by_test_id("stPageLink-NavLink").bounding_box()
    assert picture["height"] > 400
    assert picture["y"] + picture["height"] <= controls["y"], "the controls do not cover the picture"
    size = frame.locator("[data-part=orders]").evaluate("each => parseFloat(getComputedStyle(each).fontSize)")
    assert size >= (30 if theme == "narrow" else 90)
    screenshot(page, f"stage-{theme}")


def test_a_kill_from_the_stage_is_recorded_and_drawn(
    open_page: Open, whole_stack: Stack, order_database_url: str
):
    pids = {each.name: each.pid for each in whole_stack.processes()}
    page = open_page("/stage")
    picture_of(page)
    page.get_by_role("button", name="Kill order-worker-1", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Kill order-worker-1").click()
    expect(page.get_by_text("Killed order-worker-1.")).to_be_visible()
    assert {each.name: each.pid for each in whole_stack.processes()}["order-worker-1"] != pids[
        "order-worker-1"
    ]
    page.frame(url="about:srcdoc").wait_for_function(
        "() => window.stage.race.disturbances.some((each) => each.name.startsWith('kill order-worker-1'))"
    )
    with psycopg.connect(order_database_url) as connection:
        found = connection.execute("select action, component from disturbances").fetchall()
    assert ("kill", "order-worker-1") in found
    overview = open_page("/")
    expect(overview.get_by_text("kill order-worker-1 (+60 s)").first).to_be_attached()
    whole_stack.wait_until_healthy(["order-worker-1"])


def test_two_hundred_orders_in_flight_move_smoothly(open_page: Open, order_database_url: str):
    seed_recent(order_database_url, finished=0, running=IN_FLIGHT)
    page = open_page("/stage")
    picture_of(page)
    frame = page.frame(url="about:srcdoc")
    frame.wait_for_function(
        "() => window.stage.race.orders.filter((each) => each.end === null).length >= 200"
    )
    drawn = frame.evaluate(
        """() => new Promise((resolve) => {
            const before = window.stage.frames;
            const began = performance.now();
            const rate = () => (window.stage.frames - before) / (performance.now() - began) * 1000;
            setTimeout(() => resolve(rate()), 4000);
        })"""
    )
    assert drawn >= FRAMES_PER_SECOND
