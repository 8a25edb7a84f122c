"""The latency page: percentiles of few orders, and links to the slowest orders."""

from urllib.parse import parse_qs

import pytest

from db.read_models import latency
from db.read_models.latency import Selection
from loadtest.bench.seed import seed
from loadtest.charts.in_flight import short_id
from tests.dashboard.conftest import Pages, figures_of, metrics_of


@pytest.mark.parametrize(("orders", "missing"), [(19, ["p95", "p99"]), (99, ["p99"]), (100, [])])
def test_a_percentile_of_too_few_orders_is_not_shown(page: Pages, postgres, orders, missing):
    with postgres.fresh_database() as url:
        seed(url, orders, days=1, progress=lambda _: None)
        test = page.run("latency", url)
        page.reset()
    assert [name for name, value in metrics_of(test).items() if value == "–"] == missing
    needed = {metric.label: metric.help for metric in test.metric if metric.help}
    assert list(needed) == missing
    if missing:
        assert needed["p99"] == "p99 needs 100 finished orders."


def test_the_lower_charts_are_drawn_after_the_first_screen(
    page: Pages, seeded_url: str, drawn: dict[str, bool]
):
    drawn["is_drawn"] = False
    test = page.run("latency", seeded_url)
    assert list(figures_of(test)) == ["histogram", "by-percentile"]
    assert len(test.get("skeleton")) == 1
    drawn["is_drawn"] = True
    test.run()
    assert len(figures_of(test)) == 5
    assert not test.get("skeleton")


def test_each_of_the_slowest_orders_has_a_link(page: Pages, seeded_url, seeded):
    plan = latency.plan(seeded, Selection())
    slowest = latency.slowest(seeded, plan, latency.buckets(seeded, plan), 12)
    links = page.run("latency", seeded_url).get("page_link")
    shown = {parse_qs(link.proto.query_string)["order"][0]: link.proto.label for link in links}
    assert shown == {row["order_id"]: short_id(row["order_id"]) for row in slowest}
