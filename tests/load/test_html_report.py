"""`report.html`: contents, escaping, size."""

import json
from dataclasses import replace

import pytest

from db.domain import State
from db.read_models.latency import Bucket
from loadtest.playback import document
from loadtest.reports.html_report import ReportInput, html_report
from loadtest.reports.report_charts import buckets
from tests.load.report_inputs import report_input, run_playback
from tests.load.report_page import ReportPage

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ${data} \u2028"
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def given() -> ReportInput:
    return report_input(600)


@pytest.fixture(scope="module")
def page(given: ReportInput) -> ReportPage:
    return ReportPage(html_report(given))


def test_the_report_has_the_figures_of_the_verdict(given: ReportInput, page: ReportPage) -> None:
    limit, times = given.report["limit"], given.report["times"]["completion_ms"]
    assert limit["late"] > 0
    assert f"Late{limit['late']}" in page.text
    assert f"{limit['late']} late of {limit['orders']} (15 s)" in page.text
    for name in ("p50", "p99", "max"):
        assert f"{times[name] / 1000:.3f} s" in page.text


def test_the_charts_count_every_order(given: ReportInput, page: ReportPage) -> None:
    figures = page.unpacked("figures-data")["figures"]
    time_axis, histogram, percentiles, waterfall, breakdown = (figures[f"chart-{n}"] for n in range(5))
    orders = given.report["limit"]["orders"]
    assert sum(sum(trace["y"]) for trace in histogram["data"]) == orders
    offered = next(trace for trace in time_axis["data"] if trace["name"] == "offered")
    assert sum(offered["y"]) == orders
    assert percentiles["data"][0]["y"][-1] == given.report["times"]["completion_ms"]["max"] / 1000
    labels = [annotation["text"].strip() for annotation in percentiles["layout"]["annotations"]]
    assert sorted(labels) == ["limit 15 s", "target 99 %"]
    assert given.details is not None
    assert sum(waterfall["data"][0]["x"][:-1]) == pytest.approx(waterfall["data"][0]["x"][-1])
    assert len(breakdown["layout"]["yaxis"]["ticktext"]) == 10
    assert [name for name in figures if name.startswith("timeline")] == [f"timeline-{n}" for n in range(10)]


def test_the_playback_has_every_order_and_disturbance(given: ReportInput, page: ReportPage) -> None:
    played = page.unpacked("playback-data")
    assert len(played["ids"]) == played["total"] == given.report["limit"]["orders"]
    assert sum(played["late"]) == given.report["limit"]["late"]
    assert played["limit_ms"] == 15_000
    assert [(each["at"], each["name"]) for each in played["disturbances"]] == [
        (20_000, "kill order-worker-1 (+15 s)"),
        (40_000, "kill order-worker-1 (+15 s)"),
    ]
    assert played["faults"] == [{"from": 0, "to": 60_000, "name": "assignment"}]


def test_the_report_has_configuration_and_versions(page: ReportPage) -> None:
    for text in ("slo_target0.99", "profileassignment", "commitabc", "cpus2"):
        assert text in page.text


def test_the_same_input_gives_the_same_file(given: ReportInput, page: ReportPage) -> None:
    assert html_report(given) == html_report(report_input(600))


def test_a_report_of_3000_orders_is_small() -> None:
    # Longer names than those of the test data, and errors as the simulated gateways return them.
    given = report_input(3_000, 50, error="the payment provider did not respond within 200 ms" * 2)
    assert len(html_report(given).encode()) < MAX_BYTES


def test_texts_of_the_run_stay_text() -> None:
    given = report_input(40, error=HOSTILE, commit=HOSTILE, outcomes={HOSTILE: 1})
    given.report["run"]["problems"] = [HOSTILE]
    given.report["database"]["violations"] = [{"invariant": 3, "order_id": HOSTILE, "finding": HOSTILE}]
    hostile, plain = ReportPage(html_report(given)), ReportPage(html_report(report_input(40)))
    assert hostile.tags.count("script") == plain.tags.count("script") == 4
    assert "img" not in hostile.tags
    assert hostile.text.count(HOSTILE) >= 4
    # Plotly would draw the tags of a hover text.
    hover_texts = json.dumps(hostile.unpacked("figures-data"))
    assert "&lt;img src=x" in hover_texts
    assert "<img" not in hover_texts


def test_a_report_without_the_database_has_verdict_charts_and_playback(given: ReportInput) -> None:
    page = ReportPage(html_report(replace(given, details=None)))
    assert "The order database could not be read" in page.text
    assert f"{given.report['limit']['late']} late of 600" in page.text
    played = page.unpacked("playback-data")
    assert (len(played["ids"]), sum(played["late"])) == (600, given.report["limit"]["late"])
    assert played["starts"] == {}
    assert len(played["disturbances"]) == 2


def test_a_report_of_a_run_without_an_order() -> None:
    given = report_input(40)
    page = ReportPage(html_report(ReportInput(given.report, [], None)))
    assert page.unpacked("playback-data")["ids"] == []
    assert list(page.unpacked("figures-data")["figures"]) == ["chart-0"]


def test_the_policy_allows_only_the_scripts_of_the_file(given: ReportInput) -> None:
    content = html_report(given)
    policy = content.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    script = content.split("<script>")[1].split("</script>")[0]
    assert document.content_security_policy(script).split("'")[3] in policy.replace("&#x27;", "'")
    assert "http:" not in policy
    assert "unsafe" not in policy.split("style-src")[0]


def test_the_buckets_of_the_histogram() -> None:
    found = buckets([(15_000, State.COMPLETED), (15_001, State.FAILED), (14_999, State.COMPLETED)])
    assert found[0] == Bucket(15_000, {State.COMPLETED: 2})
    assert found[1].outcomes == {State.FAILED: 1}
    assert found[1].upto_ms > 15_000


def test_the_page_of_a_playback_is_complete() -> None:
    page = ReportPage(document.playback_page(run_playback(50), "dark"))
    assert page.unpacked("playback-data")["total"] == 50
    assert page.tags.count("script") == 2
