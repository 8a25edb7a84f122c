"""Reports of a verdict: JUnit, Markdown and the CSV of the orders."""

from typing import Any
from xml.etree import ElementTree

import pytest

from loadtest.generator.recording import Ending
from loadtest.reports.documents import junit, markdown, orders_csv
from tests.load.records import AUDIT, record, records, rows, verdict_of


def failed_cases(report: dict[str, Any]) -> dict[str, str]:
    suite = ElementTree.fromstring(junit(report))
    return {case.attrib["name"]: case[0].text or "" for case in suite if len(case)}


@pytest.mark.parametrize(
    ("audit", "text"),
    [
        (None, "not audited: the API did not respond"),
        (AUDIT | {"uncompared": 3}, "no violation found, but 3 orders not compared"),
    ],
)
def test_a_missing_or_partial_audit_fails_its_junit_case(audit: Any, text: str) -> None:
    report = verdict_of(records(400), audit=audit).report
    assert failed_cases(report).keys() == {"run", "invariants"}
    assert failed_cases(report)["invariants"].startswith(text)
    assert failed_cases(verdict_of(records(400)).report) == {}


def test_the_markdown_report_lists_every_violation() -> None:
    broken = AUDIT | {"clean": False, "violations": [{"order_id": "a", "finding": "twice", "invariant": 3}]}
    promised = {"broken_promises": ["b: its cancel was accepted, and it completed"]}
    report = verdict_of(records(400), audit=broken, report=promised).report
    _, _, listed = markdown(report).partition("## Failed check: invariants")
    assert "- invariant 3, order a: twice" in listed
    assert "- order b: its cancel was accepted, and it completed" in listed
    alone = verdict_of(records(400), report=promised).report
    assert "- order b: its cancel" in markdown(alone)


def test_counts_of_requests_are_distinguishable_although_names_contain_commas() -> None:
    counts = {"start again, same: already started": 2, "start again, other: refused": 1}
    report = verdict_of(records(400), report={"requests": counts}).report
    assert rows(report)["requests"] == "1 start again, other: refused; 2 start again, same: already started"


def test_the_orders_csv_has_a_row_for_each_order() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "end_to_end_ms", "outcome"))
    records = [
        record(0),
        record(1, 2.0, late=True, **nothing | {"accepted": 2.5}, ending=Ending.UNFINISHED.value),
        record(2, 3.0, late=True, **nothing, ending=Ending.NOT_ACCEPTED.value),
        record(3, 4.0, **nothing, ending=Ending.REJECTED.value),
    ]
    columns = "order_id,run_id,scenario,outcome,requested_at,accepted_at,completion_ms,within_limit"
    finished = f"{columns}\n'-r-0,'-r,mixed,completed,T,T,1000,true\n"
    report = {"run_id": "-r", "scenario": "mixed", "started_at": "2026-03-01T11:59:58.000+00:00"}
    assert orders_csv(finished, records, report).splitlines()[1:] == [
        "'-r-0,'-r,mixed,completed,T,T,1000,true",
        "'-r-1,'-r,mixed,,2026-03-01T12:00:00.000Z,2026-03-01T12:00:00.500Z,,false",
        "'-r-2,'-r,mixed,,2026-03-01T12:00:01.000Z,,,false",
        "'-r-3,'-r,mixed,,2026-03-01T12:00:02.000Z,,,",
    ]
