"""The order sender in this process, against the fake API: outages and missing connections."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from loadtest import options
from loadtest.generator import order_sender
from loadtest.generator.order_sender import OrderSender
from loadtest.generator.recording import Tally
from loadtest.options import RunOptions
from tests.load.fake_api import Behaviour
from tests.load.harness import FakeApiProcess, fake_api

# Importing Locust's environment would patch this process for gevent.
NO_EVENTS: Any = SimpleNamespace(
    events=SimpleNamespace(request=SimpleNamespace(fire=lambda **_: None)), stats=None
)


def start_run(api: FakeApiProcess, **given: object) -> tuple[Tally, "gevent.Greenlet[..., None]"]:
    """Start a run without further requests about its orders."""
    options = RunOptions.parse({"run_id": "r", "scenario": "start-only"} | given)
    tally = Tally()
    sender = OrderSender(NO_EVENTS, api.url, options, lambda order: order.start(), tally.add)
    return tally, gevent.spawn(sender.run)


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.05)


def endings(tally: Tally) -> Counter[str]:
    return Counter(str(record.ending) for record in tally.records)


def test_an_outage_beyond_the_limit_makes_orders_late_but_loses_none() -> None:
    with fake_api(Behaviour(completion_ms=100)) as api:
        tally, running = start_run(api, rate=20, duration="4s", slo_seconds=1)
        wait_for(lambda: tally.finished)
        api.put("behaviour", vars(Behaviour(database_unavailable=True)))
        wait_for(lambda: tally.late_so_far > 5)
        api.put("behaviour", vars(Behaviour(completion_ms=100)))
        running.join(timeout=20)
        truth = api.truth()["orders"]

    assert tally.unaccounted == 0
    counts = endings(tally)
    assert counts.keys() == {"outcome", "not accepted"}
    assert counts["outcome"] == len(truth)
    assert counts["not accepted"] == tally.late > 5


def test_orders_without_a_free_connection_are_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_sender, "max_open", lambda: 5)
    with fake_api(Behaviour(completion_ms=1_500)) as api:
        tally, running = start_run(api, rate=20, duration="1s")
        running.join(timeout=20)
        truth = api.truth()["orders"]

    assert (tally.offered, tally.skipped, len(truth)) == (20, 15, 5)
    assert endings(tally) == {"outcome": 5}
    assert tally.unaccounted == 0, "an order that was never sent is not lost"


def test_final_status_requests_end_although_the_api_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "DRAIN_MARGIN_SECONDS", 0.0)
    monkeypatch.setattr(order_sender, "FINAL_CHECKS", 1)
    monkeypatch.setattr(order_sender, "FINAL_CHECK_SECONDS", 0.5)
    with fake_api(Behaviour(unfinished_every=1, stall_at_seconds=1.0, stall_seconds=60.0)) as api:
        tally, running = start_run(api, rate=20, duration="1s", slo_seconds=0.5, drain_seconds=0.5)
        running.join(timeout=20)
        assert running.ready()

    assert tally.offered == 20
    assert endings(tally)["unknown"] >= 19
    assert tally.unaccounted == endings(tally)["unknown"]
