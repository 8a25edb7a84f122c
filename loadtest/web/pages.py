"""Additions to Locust's web UI: the checked form, the tab "Verdict", and `/verdict.json`."""

import json
from typing import TYPE_CHECKING

from flask import Response, g, jsonify, request
from locust.runners import STATE_CLEANUP, STATE_RUNNING, STATE_STOPPING
from locust.web import WebUI

from loadtest.reports.terminal import progress_line
from loadtest.verdict.verdict_rows import TIME_COLUMNS, time_rows, verdict_rows
from loadtest.web.auth import add_authentication, authenticated_key
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.security import bind_policy
from orchestrator.security.role_cache import RoleCache, look_up_role

if TYPE_CHECKING:
    from loadtest.run_controller import RunController

TAB = "verdict"

# Locust's routes, which have another path with --web-base-path.
INDEX, SWARM, STATS = "locust.index", "locust.swarm", "locust.request_stats"
RESET, CHANGE_USERS = "locust.reset_stats", "locust.update_user"

_LINKS = """<script>
// The table of a tab shows plain text: a click on a cell with an address opens it.
document.addEventListener("click", (event) => {
  const text = event.target.closest("td")?.textContent ?? "";
  if (/^https?:\\/\\//.test(text)) window.open(text, "_blank", "noopener");
});
</script></body>"""


def add_pages(web_ui: WebUI, controller: "RunController") -> None:
    """Add authentication, the checks of the form, the tab and `/verdict.json`."""
    app = web_ui.app
    assert app is not None, "the web UI has its Flask application"
    options = web_ui.environment.parsed_options
    host = options.host if options is not None else None
    api_url = (host or controller.settings.api_url).rstrip("/")
    key_required = not bind_policy.is_loopback(web_ui.host)
    add_authentication(app, RoleCache(lambda key: look_up_role(api_url, key), key_required=key_required))
    web_ui.template_args["extended_tabs"] = [{"title": "Verdict", "key": TAB}]
    columns = [{"key": "subject", "title": "Subject"}, {"key": "result", "title": "Result"}]
    web_ui.template_args["extended_tables"] = [{"key": TAB, "structure": columns}]

    @app.before_request
    def check_request() -> Response | None:
        if request.endpoint == CHANGE_USERS or (request.endpoint == RESET and controller.is_active):
            sentence = "A run defines its users, and its statistics are part of its reports."
            return Response(sentence + "\n", status=409, mimetype="text/plain")
        return check_form() if request.endpoint == SWARM else None

    def check_form() -> Response | None:
        form = {**vars(web_ui.environment.parsed_options), **request.form.to_dict()}
        form["users"] = form.get("user_count")
        try:
            # The API decides about roles, also for disturbances of this machine's stack. Another API that a
            # user enters could return any role.
            if form["host"] and form["host"].rstrip("/") != api_url:
                raise UsageError(f"This page only tests {api_url}. Start another page for {form['host']}.")
            controller.propose_from_form({**form, "host": api_url}, authenticated_key())
            g.has_proposed = True
        except OrderSystemError as error:
            return jsonify({"success": False, "message": str(error), "host": web_ui.environment.host})
        return None

    @app.after_request
    def extend_response(response: Response) -> Response:
        if g.get("has_proposed") and not (response.is_json and response.get_json()["success"]):
            controller.withdraw()
        if request.endpoint == STATS and response.is_json:
            rows = [
                {"subject": subject, "result": result} for subject, result in result_rows(controller).items()
            ]
            stats = {**response.get_json(), "extended_stats": [{"key": TAB, "data": rows}]}
            if stats["state"] in (STATE_CLEANUP, STATE_STOPPING):
                # Locust's page only polls while spawning or running, and would miss the verdict.
                stats["state"] = STATE_RUNNING
            response.set_data(json.dumps(stats))
        if request.endpoint == INDEX:
            response.set_data(response.get_data(as_text=True).replace("</body>", _LINKS))
        return response

    base_path = "" if options is None else options.web_base_path.rstrip("/")

    @app.route(f"{base_path}/verdict.json")
    def verdict_json() -> Response:
        verdict = controller.verdict
        return jsonify(
            {"results": result_rows(controller), "verdict": None if verdict is None else verdict.report}
        )


def result_rows(controller: "RunController") -> dict[str, str]:
    """Return the rows of the tab: progress of the active run, or the verdict of the last one."""
    links = {"dashboard": f"{controller.settings.local_url('dashboard')}/load_tests"}
    run = controller.run
    if controller.problem is not None:
        return {"problem": controller.problem} | links
    if run is None:
        return {"run": "none yet"} | links
    links["dashboard"] += f"?run={run.options.run_id}"
    if run.verdict is not None:
        report = run.verdict.report
        rows = {"verdict": f"{report['verdict']} (exit code {report['exit_code']})"}
        rows |= {row.label: row.value for row in verdict_rows(report)}
        for name, cells in time_rows(report["times"]):
            milliseconds = zip(TIME_COLUMNS[1:], cells[1:], strict=True)
            rows[name] = ", ".join(f"{column} {cell} ms" for column, cell in milliseconds)
        return rows | {"reports": report["report_dir"]} | links
    return {
        "run": f"{run.options.run_id}, {run.options.scenario}",
        "progress": progress_line(run).strip(),
    } | links
