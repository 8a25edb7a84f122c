"""Audits: jobs in the background, and the page that shows them."""

import threading
import time

import pytest
import streamlit as st

from dashboard.data import audit_jobs
from dashboard.data.audit_jobs import AuditJobs, AuditState
from dashboard.data.order_api import OrderApi
from orchestrator.errors import ServiceUnavailable
from tests.dashboard.conftest import Pages, texts

REPORT = {
    "finished": 3, "open": 1, "late": 2, "workflows_checked": 3, "clean": False,
    "invariants": [
        {"number": 1, "text": "one", "holds": True},
        {"number": 2, "text": "two", "holds": False},
    ],
    "violations": [
        {
            "invariant": 2, "order_id": "o-1",
            "finding": "has <b>markup</b> ![x](y)", "evidence": {"state": "failed"},
        },
    ],
}  # fmt: skip


class FakeApi(OrderApi):
    def __init__(self, report):
        self._report = report

    def audit(self, run_id):
        if isinstance(self._report, Exception):
            raise self._report
        return self._report


def finished(jobs: AuditJobs, run_id: str | None = None) -> AuditState:
    not_after = time.monotonic() + 5
    while (state := jobs.state(run_id)).is_running or state == AuditState():
        assert time.monotonic() < not_after
        time.sleep(0.01)
    return state


def test_an_audit_ends_with_a_report_or_an_error():
    jobs, api = AuditJobs(), FakeApi(REPORT)
    assert jobs.state(None) == AuditState()
    jobs.start(api, None)
    assert finished(jobs).report == REPORT
    jobs, api = AuditJobs(), FakeApi(ServiceUnavailable("no response"))
    jobs.start(api, None)
    assert str(finished(jobs).error) == "no response"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_audit_that_crashes_ends_with_an_error():
    jobs = AuditJobs()
    jobs.start(FakeApi(ValueError("no JSON")), None)
    assert str(finished(jobs).error) == "The audit ended without a report. Run it again."
    for thread in threading.enumerate():
        if thread.name == "audit":
            thread.join(5)


def test_the_page_starts_an_audit(page: Pages, seeded_url, monkeypatch):
    jobs = AuditJobs()
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    monkeypatch.setattr(OrderApi, "audit", lambda *_: REPORT)
    test = page.run("audit", seeded_url)
    assert jobs.state(None) == AuditState(), "the page starts no audit unasked"
    next(button for button in test.button if button.label == "Run audit").click().run()
    finished(jobs)
    test.run()
    assert "3 orders checked, 1 still running, 2 late" in texts(test)


def test_the_page_shows_some_violations_and_the_download_has_all(page: Pages, seeded_url, monkeypatch):
    one = REPORT["violations"][0]
    many = REPORT | {"violations": [one | {"order_id": f"o-{n}"} for n in range(57)]}
    jobs = AuditJobs()
    jobs.start(FakeApi(many), None)
    finished(jobs)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    test = page.run("audit", seeded_url)
    assert not test.exception
    assert len(test.expander) == 20
    assert "57 violations" in texts(test)
    assert "Showing 20 of 57 violations. The downloaded report has all of them." in texts(test)
    (download,) = test.get("download_button")
    assert download.proto.label == "Download report (JSON)"


def test_the_page_shows_how_long_an_audit_has_been_running(page: Pages, seeded_url, monkeypatch):
    jobs, ended = AuditJobs(), threading.Event()

    class Slow(FakeApi):
        def audit(self, run_id):
            ended.wait(60)
            return super().audit(run_id)

    jobs.start(FakeApi(REPORT), None)
    finished(jobs)
    jobs.start(Slow(REPORT), None)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    test = page.run("audit", seeded_url)
    assert not test.exception
    assert "Audit running for" in texts(test)
    assert not [button for button in test.button if button.label.startswith("Run")]
    ended.set()
    finished(jobs)
    assert "3 orders checked" in texts(test.run())


def test_the_live_switch_stops_the_refresh(page: Pages, seeded_url, monkeypatch):
    intervals: list[float | None] = []
    fragment = st.fragment

    def record(body, *, run_every=None):
        intervals.append(run_every)
        return fragment(body, run_every=run_every)

    monkeypatch.setattr(st, "fragment", record)
    test = page.run("audit", seeded_url)
    test.toggle(key="live").set_value(False).run()
    assert intervals == [1.0, None]


def test_an_audit_without_an_api_shows_one_error_and_can_be_retried(page: Pages, seeded_url, monkeypatch):
    jobs = AuditJobs()
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    test = page.run("audit", seeded_url)
    next(button for button in test.button if button.label == "Run audit").click().run()
    for _ in range(2):
        finished(jobs)
        test.run()
        assert not test.exception
        assert [error.value for error in test.error] == [
            "No connection to the API\\: start the stack with \\`make up\\`\\."
        ]
        next(button for button in test.button if button.label == "Run again").click()
        test.run()


def test_the_page_shows_the_evidence_as_plain_text(page: Pages, seeded_url, monkeypatch):
    jobs, api = AuditJobs(), FakeApi(REPORT)
    jobs.start(api, None)
    finished(jobs)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    test = page.run("audit", seeded_url)
    assert not test.exception
    text = texts(test)
    assert "3 orders checked, 1 still running, 2 late" in text
    assert "1 violation" in text
    (violation,) = test.expander
    assert violation.label == "o\\-1\\: has \\<b\\>markup\\<\\/b\\> \\!\\[x\\]\\(y\\)"
    assert "failed" in test.json[0].value


def test_a_failed_audit_shows_its_error(page: Pages, seeded_url, monkeypatch):
    jobs, api = AuditJobs(), FakeApi(ServiceUnavailable("Temporal is not responding"))
    jobs.start(api, None)
    finished(jobs)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: jobs)
    test = page.run("audit", seeded_url)
    assert [error.value for error in test.error] == ["Temporal is not responding\\."]
    assert any(button.label == "Run again" for button in test.button)
