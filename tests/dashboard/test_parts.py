"""The parts behind the pages: export, audits in the background, worker processes, the API's answers."""

import json
import os
import subprocess
import sys
import threading
import time

import httpx
import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.routing import Route

from dashboard import export
from dashboard.api_client import PAUSE_SECONDS, POLL_SECONDS, OrderApi
from dashboard.data import audit_jobs
from dashboard.data.audit_jobs import AuditJobs, AuditState
from dashboard.data.worker_usage import WorkerMeter
from dashboard.view_models.invariants import as_file
from db.domain import State
from db.read_models import latency
from db.read_models.latency import Selection
from orchestrator.errors import OrderConflict, OrderUnknown, RequestMalformed, ServiceUnavailable, TooLate
from orchestrator.rest_client import ApiUnavailable
from orchestrator.settings import Settings
from tests.dashboard.conftest import Pages, said
from tests.ports import free_port_base

BROKEN = {
    "judged": 3, "open": 1, "late": 2, "workflows_checked": 3, "clean": False,
    "invariants": [
        {"number": 1, "text": "one", "holds": True},
        {"number": 2, "text": "two", "holds": False},
    ],
    "violations": [
        {
            "invariant": 2, "order_id": "o-1",
            "finding": "said <b>this</b> ![x](y)", "witness": {"state": "failed"},
        },
    ],
}  # fmt: skip


async def exported(url: str, **query: str) -> httpx.Response:
    settings = Settings(database_url=url, database_reader_url=url)
    app = Starlette(routes=[Route(export.PATH, export.serve(settings))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        return await client.get(export.PATH, params=query)


async def test_the_export_streams_what_the_address_selects(seeded, seeded_url):
    run_id = latency.run_names(seeded)[0]["run_id"]
    answer = await exported(seeded_url, run=run_id, outcome="completed")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert f"latency-{run_id}.csv" in answer.headers["content-disposition"]
    truth = latency.summary(seeded, latency.plan(seeded, Selection(run_id=run_id))).outcomes[State.COMPLETED]
    assert answer.text.count("\n") == truth + 1


async def test_an_export_without_a_database_is_a_503_with_a_sentence():
    answer = await exported("postgresql://orders_reader@/orders?host=/nowhere")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.text == "The database is not responding. Try again shortly."


async def test_an_export_of_what_cannot_be_meant_is_a_422_with_a_sentence(seeded_url):
    answer = await exported(seeded_url, run="my run")
    assert answer.status_code == 422
    assert answer.text == "a run's id is 1 to 64 letters, digits, '-' or '_'"
    far = await exported(seeded_url, until="9999-12-31T23:59:59")
    assert far.status_code == 422
    assert far.text == "'until' is no time like 2026-01-31T12:00, from 2000 to 2099"


class FakeApi(OrderApi):
    def __init__(self, report):
        self._report = report

    def audit(self, run_id):
        if isinstance(self._report, Exception):
            raise self._report
        return self._report


def ended(desk: AuditJobs, run_id: str | None = None) -> AuditState:
    not_after = time.monotonic() + 5
    while (state := desk.look(run_id)).is_under_way or state == AuditState():
        assert time.monotonic() < not_after
        time.sleep(0.01)
    return state


def test_an_audit_ends_with_its_report_or_its_problem():
    desk, api = AuditJobs(), FakeApi(BROKEN)
    assert desk.look(None) == AuditState()
    desk.begin(api, None)
    assert ended(desk).report == BROKEN
    desk, api = AuditJobs(), FakeApi(ServiceUnavailable("away"))
    desk.begin(api, None)
    assert str(ended(desk).error) == "away"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_audit_that_breaks_off_ends_all_the_same():
    desk = AuditJobs()
    desk.begin(FakeApi(ValueError("no JSON")), None)
    assert str(ended(desk).error) == "The audit ended without a report; try again."
    for thread in threading.enumerate():
        if thread.name == "audit":
            thread.join(5)


def test_an_audit_is_begun_at_sight_once_for_the_same_books():
    desk, asked = AuditJobs(), []

    class Counting(FakeApi):
        def audit(self, run_id):
            asked.append(run_id)
            return super().audit(run_id)

    for repository in ("first", "first", "second", "second"):
        desk.begin_at_sight(Counting(BROKEN), None, repository)
        ended(desk)
    assert len(asked) == 2
    desk.begin_at_sight(Counting(ServiceUnavailable("away")), "a-run", "second")
    ended(desk, "a-run")
    desk.begin_at_sight(Counting(BROKEN), "a-run", "third")
    assert len(asked) == 3, "one that went wrong is tried again when somebody asks"


def test_the_audit_page_begins_an_audit_for_whoever_comes(page: Pages, seeded_url, monkeypatch):
    desk = AuditJobs()
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: desk)
    monkeypatch.setattr(OrderApi, "audit", lambda *_: BROKEN)
    test = page.run("audit", seeded_url)
    ended(desk)
    test.run()
    assert "3 orders judged, 1 still running, 2 late" in said(test)


def test_the_audit_page_shows_some_violations_and_hands_out_all(page: Pages, seeded_url, monkeypatch):
    one = BROKEN["violations"][0]
    many = BROKEN | {"violations": [one | {"order_id": f"o-{n}"} for n in range(57)]}
    desk = AuditJobs()
    desk.begin(FakeApi(many), None)
    ended(desk)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: desk)
    test = page.run("audit", seeded_url)
    assert not test.exception
    assert len(test.expander) == 20
    assert "57 broken" in said(test)
    assert "20 of 57 are shown; all of them are in the report as JSON." in said(test)
    (download,) = test.get("download_button")
    assert download.proto.label == "The whole report as JSON"
    assert json.loads(as_file(many)) == many


def test_the_audit_page_can_be_held_still(page: Pages, seeded_url, monkeypatch):
    ticks: list[float | None] = []
    fragment = st.fragment

    def noting(body, *, run_every=None):
        ticks.append(run_every)
        return fragment(body, run_every=run_every)

    monkeypatch.setattr(st, "fragment", noting)
    test = page.run("audit", seeded_url)
    test.toggle(key="live").set_value(False).run()
    assert ticks == [1.0, None]


def test_an_audit_begun_while_the_api_is_away_is_one_sentence_and_can_be_tried_again(
    page: Pages, seeded_url, monkeypatch
):
    desk = AuditJobs()
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: desk)
    test = page.run("audit", seeded_url)
    for _ in range(2):
        ended(desk)
        test.run()
        assert not test.exception
        assert [error.value for error in test.error] == [
            "No connection to the API\\: start the stack with \\`make up\\`\\."
        ]
        next(button for button in test.button if button.label == "Audit again").click()
        test.run()


def test_the_audit_page_shows_the_witness_and_reads_nothing_as_markup(page: Pages, seeded_url, monkeypatch):
    desk, api = AuditJobs(), FakeApi(BROKEN)
    desk.begin(api, None)
    ended(desk)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: desk)
    test = page.run("audit", seeded_url)
    assert not test.exception
    text = said(test)
    assert "3 orders judged, 1 still running, 2 late" in text
    assert "1 broken" in text
    (violation,) = test.expander
    assert violation.label == "o\\-1\\: said \\<b\\>this\\<\\/b\\> \\!\\[x\\]\\(y\\)"
    assert "failed" in test.json[0].value


def test_an_audit_that_failed_says_so_in_one_sentence(page: Pages, seeded_url, monkeypatch):
    desk, api = AuditJobs(), FakeApi(ServiceUnavailable("Temporal does not answer"))
    desk.begin(api, None)
    ended(desk)
    monkeypatch.setattr(audit_jobs, "audit_jobs", lambda: desk)
    test = page.run("audit", seeded_url)
    assert [error.value for error in test.error] == ["Temporal does not answer\\."]
    assert any(button.label == "Audit again" for button in test.button)


def test_workers_of_our_stack_are_found_and_others_are_not(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "worker", "order", "--name"]
    env = {**os.environ, "ORDERS_STACK_HOME": str(tmp_path)}
    ours = subprocess.Popen([*command, "order-worker-7"], env=env)
    theirs = subprocess.Popen([*command, "order-worker-8"], env={**env, "ORDERS_STACK_HOME": "/elsewhere"})
    try:
        meter = WorkerMeter(tmp_path)
        not_after = time.monotonic() + 5
        while not (found := meter.read()) and time.monotonic() < not_after:
            meter = WorkerMeter(tmp_path)
        assert [use.name for use in found] == ["order-worker-7"]
        assert found[0].memory_bytes > 1_000_000
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()
    assert meter.read() == []


def answering(status: int, body: object) -> OrderApi:
    api = OrderApi("http://api")
    api._http = httpx.Client(
        base_url="http://api", transport=httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    )
    return api


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, OrderUnknown),
        (409, TooLate),
        (422, RequestMalformed),
        (503, ServiceUnavailable),
        (500, ServiceUnavailable),
    ],
)
def test_a_problem_becomes_our_error_with_its_sentence(status, error):
    with pytest.raises(error, match="this is why"):
        answering(status, {"detail": "this is why"}).cancel("o", "r", "me")


def test_a_start_that_meets_another_order_is_a_conflict_and_not_too_late():
    with pytest.raises(OrderConflict, match="other content"):
        answering(409, {"detail": "other content"}).start("o", {})


def test_an_answer_that_is_no_problem_document_is_still_one_sentence():
    with pytest.raises(ServiceUnavailable, match="HTTP status 500"):
        answering(500, ["nothing"]).approve("o", "me")


def test_health_is_read_also_when_it_is_bad():
    assert answering(503, {"status": "unhealthy"}).health() == {"status": "unhealthy"}


def test_no_api_at_all_is_said_as_such():
    with pytest.raises(ApiUnavailable):
        OrderApi(f"http://127.0.0.1:{free_port_base()}").metrics()


def test_an_api_that_hangs_holds_nobody_up_for_long(monkeypatch):
    waits: list[float] = []

    def hang(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("nothing came", request=request)

    api = OrderApi("http://api")
    api._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(hang))
    for look in (api.health, api.metrics, api.with_key("somebody's").role, api.health):
        with pytest.raises(ServiceUnavailable):
            look()
    assert waits == [POLL_SECONDS], "whoever looks next does not wait for the same silence"
    # What a viewer asks for is asked all the same.
    with pytest.raises(ServiceUnavailable):
        api.approve("o", "me")
    assert len(waits) == 2
    monkeypatch.setattr("dashboard.api_client.monotonic", lambda: time.monotonic() + PAUSE_SECONDS)
    with pytest.raises(ServiceUnavailable):
        api.health()
    assert len(waits) == 3
