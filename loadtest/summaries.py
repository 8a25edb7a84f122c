"""A judged run as documents for others: JUnit XML and Markdown. Pure functions over the verdict."""

from typing import Any
from xml.etree import ElementTree

from loadtest.percentiles import PERCENTILES
from loadtest.wording import TIMES, facts

Json = dict[str, Any]


def junit(told: Json) -> bytes:
    """The verdict as JUnit XML: the run, the limit and the books are a test case each."""
    run, limit, books = told["run"], told["limit"], told["books"]
    broken = [f"{each['order_id']}: {each['finding']}" for each in books["violations"]]
    broken += books["broken_promises"]
    if not books["clean"] and not broken:
        broken = [facts(told)["books"]]
    cases = {
        "run is valid": "\n".join(run["problems"]),
        "limit is met": "" if limit["verdict"] == "met" else facts(told)["limit"],
        "books are clean": "\n".join(broken),
    }
    suite = ElementTree.Element(
        "testsuite",
        name=f"loadtest.{told['scenario']}",
        tests=str(len(cases)),
        failures=str(sum(1 for problem in cases.values() if problem)),
        errors="0",
        timestamp=told["started_at"],
    )
    for name, problem in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname=told["run_id"], name=name)
        if problem:
            failure = ElementTree.SubElement(case, "failure", message=problem.splitlines()[0])
            failure.text = problem
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def markdown(told: Json) -> str:
    """The verdict for a pull request or a page."""
    lines = [f"# Load test {told['run_id']}: {told['verdict']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(fact)} |" for name, fact in facts(told).items()]
    lines += ["", "| ms | n | mean | p50 | p90 | p95 | p99 | max |", "|---|---|---|---|---|---|---|---|"]
    rows = {name.removesuffix("_ms").replace("_", " "): told["times"][name] for name in TIMES}
    rows |= {f"step {name}": spread for name, spread in told["times"]["steps_ms"].items()}
    for name, found in rows.items():
        if found is not None:
            cells = [f"{found[key]:g}" if key in found else "" for key in ("count", "mean", *PERCENTILES)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    broken = [
        f"- {each['invariant']}, order {each['order_id']}: {each['finding']}"
        for each in told["books"]["violations"]
    ]
    broken += [f"- order {promise}" for promise in told["books"]["broken_promises"]]
    if broken:
        lines += ["", "## Broken invariants", "", *broken]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
