"""Grafana dashboard, alert rules and scrape configuration, compared with the metrics of running processes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.settings import Settings
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.live import LiveApi, eventually

MONITORING = PROJECT_ROOT / "orchestrator" / "monitoring"
RULES = MONITORING / "prometheus" / "rules" / "orders.yml"
RULE_TESTS = MONITORING / "prometheus" / "tests" / "orders_test.yml"
SCRAPES = MONITORING / "prometheus" / "prometheus.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "orders.json"
METRICS_PAGE = PROJECT_ROOT / "docs" / "reference" / "metrics.md"
ALERTS_PAGE = PROJECT_ROOT / "docs" / "how-to" / "respond-to-alerts.md"

OF_PROMETHEUS = {"up"}
_OPERATORS = {"and", "or", "unless", "bool", "inf", "nan"}
_WITHOUT_NAMES = re.compile(
    r'"(?:\\.|[^"\\])*"'  # strings
    r"|\[[^\]]*\]"  # ranges
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)


def metrics_named(expression: str) -> set[str]:
    """Return the metric names in a PromQL expression."""
    bare = _WITHOUT_NAMES.sub(" ", expression)
    bare = re.sub(r"\{[^}]*\}", " ", bare)
    names = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*\b(?!\s*\()", bare)
    return {name for name in names if name.lower() not in _OPERATORS}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return shown


def shown_expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def samples(text: str) -> dict[str, set[str]]:
    """Return the metric names of an exposition and their labels, including families without samples."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def targets(settings: Settings) -> dict[str, str]:
    """Return the metrics address of each worker from the target files for Prometheus."""
    groups = [
        group for file in settings.metrics_targets.glob("*.json") for group in json.loads(file.read_text())
    ]
    return {group["labels"]["component"]: group["targets"][0] for group in groups}


def scrape(address: str) -> str:
    return httpx.get(f"http://{address}/metrics", trust_env=False).text


@pytest.fixture(scope="module")
def exposed(live_stack: Stack, live: LiveApi) -> dict[str, set[str]]:
    """The metrics of API and workers after one order, with their labels."""
    live.finished(live.start())
    texts = [live.http.get("/metrics").text]
    texts += [scrape(address) for address in targets(live_stack.settings).values()]
    known: dict[str, set[str]] = {}
    for text in texts:
        for name, labels in samples(text).items():
            known.setdefault(name, set()).update(labels)
    return known


def test_names_are_found_in_expressions() -> None:
    expression = (
        'sum by (step, le) (rate(a_bucket{b="c{d}", e!~"f.*"}[5m])) > 0.9 * max(g:h:i) or absent(j) and k'
    )
    assert metrics_named(expression) == {"a_bucket", "g:h:i", "j", "k"}


@pytest.mark.stack
def test_every_metric_of_rules_and_dashboard_is_exposed(exposed: dict[str, set[str]]) -> None:
    known = set(exposed) | OF_PROMETHEUS | {rule["record"] for rule in rules() if "record" in rule}
    named = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    unknown = {
        (where, metric)
        for where, expression in [*named, *shown_expressions()]
        for metric in metrics_named(expression) - known
    }
    assert unknown == set()


@pytest.mark.stack
def test_every_label_in_rules_and_dashboard_exists(exposed: dict[str, set[str]]) -> None:
    added_by_prometheus = {"job", "instance", "component", "le"}
    for where, expression in [*((r.get("alert", ""), r["expr"]) for r in rules()), *shown_expressions()]:
        known = added_by_prometheus.union(*(exposed.get(name, set()) for name in metrics_named(expression)))
        grouped = {
            label.strip()
            for labels in re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", expression)
            for label in labels.split(",")
        }
        matched = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        assert grouped | matched <= known, (where, grouped | matched)


@pytest.mark.stack
def test_each_process_exposes_its_memory(live_stack: Stack, live: LiveApi) -> None:
    pids = {component.name: component.pid for component in live_stack.components()}
    texts = {name: scrape(address) for name, address in targets(live_stack.settings).items()}
    assert texts.keys() == {"order-worker-1", "shipping-worker-1"}
    texts["api"] = live.http.get("/metrics").text
    for name, text in texts.items():
        (family,) = [
            family
            for family in text_string_to_metric_families(text)
            if family.name == "process_resident_memory_bytes"
        ]
        actual = psutil.Process(pids[name]).memory_info().rss
        assert family.samples[0].value == pytest.approx(actual, rel=0.2)


@pytest.mark.stack
def test_the_buckets_cover_the_longest_workflow_task(live_stack: Stack, live: LiveApi) -> None:
    live.finished(live.start())
    text = scrape(targets(live_stack.settings)["order-worker-1"])
    for latency in ("execution", "schedule_to_start"):
        edges = re.findall(rf'temporal_workflow_task_{latency}_latency_seconds_bucket.*le="([\d.]+)"', text)
        assert max(map(float, edges)) > WORKFLOW_TASK_TIMEOUT.total_seconds()


@pytest.mark.stack
def test_the_remaining_time_is_exposed_while_orders_run(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")

    def sample(name: str) -> float | None:
        found = re.search(rf"^{name} (\S+)$", live.http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else None

    # The order counts are up to 5 s old.
    left = eventually(lambda: sample("orders_least_budget_left_seconds"))
    assert 0 < left <= 15
    # Other tests can have left an order in review.
    in_flight = sample("orders_in_flight")
    assert in_flight is not None
    assert in_flight >= 1
    assert sample("orders_overdue") == 0
    assert live.signal(order_id, "cancel", reason="test", cancelled_by="test").status_code == 200
    assert live.finished(order_id)["state"] == "cancelled"
    eventually(lambda: sample("orders_in_flight") == 0)
    assert sample("orders_compensating") == 0
    assert sample("order_completion_seconds_count") == sum(
        sample(f'orders_finished_total{{outcome="{outcome}"}}') or 0
        for outcome in ("completed", "cancelled", "failed")
    )


@pytest.mark.stack
def test_a_restarted_worker_is_scraped_at_its_new_address(live_stack: Stack) -> None:
    before = targets(live_stack.settings)["shipping-worker-1"]
    live_stack.restart("shipping-worker-1")
    after = targets(live_stack.settings)["shipping-worker-1"]
    assert after != before
    assert "temporal_num_pollers" in scrape(after)
    live_stack.kill("shipping-worker-1")
    killed = eventually(lambda: (now := targets(live_stack.settings)["shipping-worker-1"]) != after and now)
    live_stack.wait_until_healthy(["shipping-worker-1"])
    assert "temporal_num_pollers" in scrape(killed)


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_panels_use_the_provisioned_data_source() -> None:
    (source,) = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    used = {target["datasource"]["uid"] for panel in panels() for target in panel.get("targets", [])}
    assert used == {source["uid"]}


def test_the_rule_tests_cover_each_alert_firing_and_not_firing() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    checked = [test for scenario in tests for test in scenario["alert_rule_test"]]
    names = {alert["alert"] for alert in alerts()}
    assert {test["alertname"] for test in checked if test.get("exp_alerts")} == names
    assert {test["alertname"] for test in tests[0]["alert_rule_test"]} == names
    assert not any(test.get("exp_alerts") for test in tests[0]["alert_rule_test"])


def test_every_alert_has_a_summary_a_severity_and_a_runbook() -> None:
    headings = {
        heading.lower() for heading in re.findall(r"^## (\w+)$", ALERTS_PAGE.read_text(), re.MULTILINE)
    }
    for alert in alerts():
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        page, _, heading = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/how-to/respond-to-alerts.md"
        assert heading == alert["alert"].lower()
        assert heading in headings


@pytest.mark.stack
def test_the_reference_lists_exactly_our_metrics(exposed: dict[str, set[str]]) -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)`", METRICS_PAGE.read_text(), re.MULTILINE))
    families = {re.sub("_(bucket|sum|count|created)$", "", name) for name in exposed}
    assert listed <= families
    of_libraries = re.compile("temporal_|process_|python_")
    ours = {name for name in families if not of_libraries.match(name)}
    assert {name.removesuffix("_total") for name in ours} == {
        name.removesuffix("_total") for name in listed if not of_libraries.match(name)
    }


def test_prometheus_scrapes_the_default_ports() -> None:
    defaults = Settings(_env_file=None)  # type: ignore[call-arg]
    by_job = {job["job_name"]: job for job in yaml.safe_load(SCRAPES.read_text())["scrape_configs"]}

    def static(job: str) -> list[str]:
        found: list[str] = by_job[job]["static_configs"][0]["targets"]
        return found

    assert static("order-api") == [f"127.0.0.1:{defaults.port('api')}"]
    assert static("temporal") == [f"127.0.0.1:{defaults.port('temporal_metrics')}"]
    (pattern,) = by_job["order-workers"]["file_sd_configs"][0]["files"]
    default_home = PROJECT_ROOT / Settings.model_fields["orders_home"].default
    found = (SCRAPES.parent / pattern).resolve()
    assert found == Path(default_home).resolve() / "metrics" / "*.json"
