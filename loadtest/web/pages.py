"""What Locust's web page gets from us: a checked form, and the verdict so far as a tab and as a page."""

import json
from html import escape
from typing import TYPE_CHECKING, Any

from flask import Response, jsonify, request
from locust.runners import STATE_CLEANUP, STATE_RUNNING
from locust.web import WebUI

from loadtest.reports.terminal import progress_line
from loadtest.verdict.slo import upper_bound
from loadtest.verdict.verdict_rows import TIME_COLUMNS, time_rows, verdict_rows
from loadtest.web import auth
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.security import bind_policy
from orchestrator.security.role_cache import RoleCache, look_up_role

if TYPE_CHECKING:
    from loadtest.run_controller import Session

TAB = "verdict"

_LINKS = """<script>
// The table of a tab shows text only: a click on a cell that is an address opens it.
document.addEventListener("click", (event) => {
  const text = event.target.closest("td")?.textContent ?? "";
  if (/^https?:\\/\\//.test(text)) window.open(text, "_blank", "noopener");
});
</script></body>"""

Json = dict[str, Any]


def add_pages(web_ui: WebUI, session: "Session") -> None:
    """Adds the tab, `/verdict` and `/verdict.json`, and checks the form before a run starts."""
    app = web_ui.app
    assert app is not None, "a web page has its application"
    # The API that this page was started for, whatever address somebody types into the form.
    options = web_ui.environment.parsed_options
    given_url = options.host if options is not None else None
    api_url = (given_url or session.settings.api_url).rstrip("/")
    # Beyond this machine nobody gets in without a key, whatever the API says.
    key_required = not bind_policy.is_loopback(web_ui.host)
    auth.hang(app, RoleCache(lambda key: look_up_role(api_url, key), key_required=key_required))
    web_ui.template_args["extended_tabs"] = [{"title": "Verdict", "key": TAB}]
    web_ui.template_args["extended_tables"] = [
        {
            "key": TAB,
            "structure": [
                {"key": "subject", "title": "Subject"},
                {"key": "finding", "title": "Finding"},
            ],
        }
    ]

    @app.before_request
    def check_the_form() -> Response | None:
        if request.path != "/swarm":
            return None
        given = {**vars(web_ui.environment.parsed_options), **request.form.to_dict()}
        given["users"] = given.get("user_count")
        try:
            # Who may kill parts of this machine's stack is asked of its API, not of one that answers as it
            # is told to.
            if given["host"] and given["host"].rstrip("/") != api_url:
                raise UsageError(f"this page tests {api_url} alone; start another page for {given['host']}")
            session.propose_now({**given, "host": api_url}, auth.caller_key())
        except OrderSystemError as error:
            return jsonify({"success": False, "message": str(error), "host": web_ui.environment.host})
        return None

    @app.after_request
    def add_the_verdict(response: Response) -> Response:
        if request.path == "/stats/requests" and response.is_json:
            rows = [
                {"subject": subject, "finding": finding} for subject, finding in findings(session).items()
            ]
            stats = {**response.get_json(), "extended_stats": [{"key": TAB, "data": rows}]}
            if stats["state"] == STATE_CLEANUP:
                # The page stops asking at any state but spawning and running, and would never see the end.
                stats["state"] = STATE_RUNNING
            response.set_data(json.dumps(stats))
        if request.path == "/":
            response.set_data(response.get_data(as_text=True).replace("</body>", _LINKS))
        return response

    @app.route("/verdict")
    def verdict_page() -> str:
        return page(findings(session))

    @app.route("/verdict.json")
    def verdict_json() -> Response:
        told = session.verdict
        return jsonify({"findings": findings(session), "verdict": None if told is None else told.report})


def findings(session: "Session") -> dict[str, str]:
    """What can be said now: of the run under way, or of the last one."""
    links = {"dashboard": f"{session.settings.local_url('dashboard')}/load_tests"}
    run = session.run
    if session.trouble is not None:
        return {"not run": session.trouble} | links
    if run is None:
        return {"run": "none yet"} | links
    links["dashboard"] += f"?run={run.options.run_id}"
    if run.verdict is not None:
        report = run.verdict.report
        found = {"verdict": f"{report['verdict']} (exit code {report['exit_code']})"}
        found |= {row.label: row.value for row in verdict_rows(report)}
        for name, cells in time_rows(report["times"]):
            milliseconds = zip(TIME_COLUMNS[1:], cells[1:], strict=True)
            found[name] = ", ".join(f"{column} {cell} ms" for column, cell in milliseconds)
        return found | {"reports": report["report_dir"]} | links
    tally = run.tally
    judged, late = tally.counted_so_far, tally.late_so_far
    return {
        "run": f"{run.options.run_id}, {run.options.scenario}",
        "so far": progress_line(run),
        "late": f"{late} of {judged} that are known",
        "in flight": str(tally.in_flight),
        "bound": f"at most {upper_bound(late, judged):.3%} late, with 95 % confidence" if judged else "-",
        "audit": run.interim_audit.look(),
    } | links


def page(found: dict[str, str]) -> str:
    """The findings as a plain page that renews itself."""
    rows = "".join(
        f"<tr><th>{escape(subject)}</th><td>{_linked(escape(finding))}</td></tr>"
        for subject, finding in found.items()
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta http-equiv='refresh' content='2'>"
        "<title>Verdict</title><style>body{font-family:sans-serif;margin:2em}th{text-align:left;"
        "vertical-align:top;padding:.3em 1.5em .3em 0}td{white-space:pre-line}</style>"
        f"<h1>Verdict</h1><table>{rows}</table></html>"
    )


def _linked(text: str) -> str:
    return f"<a href='{text}'>{text}</a>" if text.startswith("http://") else text
