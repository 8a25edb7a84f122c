"""The verdict in words: the same sentences for the terminal, the Markdown summary and the web page."""

from typing import Any

from loadtest.verdict.percentiles import PERCENTILES

Json = dict[str, Any]

TIMES = ("accept_ms", "completion_ms", "end_to_end_ms")


def facts(told: Json) -> dict[str, str]:
    """What there is to say about a judged run, by subject, in the order it should be read."""
    lines = {
        "run": _run(told["run"]),
        "generator": _generator(told["run"]),
        "limit": _limit(told["limit"]),
        "books": audit_text(told["books"]),
        "outcomes": _counts(told["outcomes"]) or "none",
    }
    if told["requests"]:
        lines["requests"] = _counts(told["requests"])
    if told["run"]["outages"]:
        lines["outages"] = "; ".join(told["run"]["outages"])
    for disturbance in told["disturbances"]:
        name = f"{disturbance['at_seconds']:.1f}s {disturbance['verb']} {disturbance['target']}"
        lines[name] = _effect(disturbance)
    if told.get("comparison"):
        lines[f"against {told['comparison']['with']}"] = comparison_text(told["comparison"])
    if told.get("missing"):
        lines["missing"] = "; ".join(told["missing"])
    return lines


def _run(run: Json) -> str:
    lag = run["lag_ms"]
    of_plan = "" if run["planned"] is None else f" of {run['planned']}"
    parts = [f"{run['offered']}{of_plan} orders offered at {run['offered_rate']:g}/s"]
    if run["held_share"] is not None:
        parts.append(f"{run['held_share']:.2%} of them on time")
    if lag is not None:
        parts.append(f"lag p50 {lag['p50']:.1f} ms, p99 {lag['p99']:.1f} ms, max {lag['max']:.1f} ms")
    if run["shed"]:
        parts.append(f"{run['shed']} shed")
    parts.append(f"{run['skipped']} skipped, {run['unaccounted']} unaccounted")
    if run["stopped_after_seconds"] is not None:
        parts.append(f"stopped after {run['stopped_after_seconds']:.1f} s")
    text = "; ".join(parts)
    return text if run["valid"] else f"INVALID: {'; '.join(run['problems'])}\n{text}"


def _generator(run: Json) -> str:
    text = (
        f"{run['processes']} process(es), {run['cpu_percent']:.0f} % CPU, "
        f"{run['cpu_ms_per_order']:.2f} ms CPU an order; {run['completed_rate']:g} outcomes/s"
    )
    return text + (f"; {run['start_retries']} starts repeated" if run["start_retries"] else "")


def _limit(limit: Json) -> str:
    text = (
        f"{limit['verdict']}: {limit['late']} late of {limit['orders']} ({limit['slo_seconds']:g} s); "
        f"with {limit['confidence']:.0%} confidence at most {limit['late_bound']:.3%} are late, "
        f"allowed {1 - limit['target']:.3%}"
    )
    if limit["more_needed"]:
        text += f"; {limit['more_needed']} more orders without another late one would prove it"
    others = {name: n for name, n in limit["endings"].items() if name != "outcome"}
    if others:
        text += f"; without an outcome: {_counts(others)}"
    if limit["late_from_due"] != limit["late"]:
        text += f"; counted from when they were due, {limit['late_from_due']} late"
    return text


def audit_text(database: Json) -> str:
    """What an audit has found, with the promises that the generator saw broken."""
    if not database["audited"]:
        return "not audited: the API did not answer"
    text = f"nine invariants over {database['judged']} orders, {database['workflows_checked']} workflows compared"
    broken = len(database["violations"]) + len(database["broken_promises"])
    if broken:
        first = database["broken_promises"][:3] or [
            f"{each['order_id']}: {each['finding']}" for each in database["violations"][:3]
        ]
        return f"BROKEN in {broken} places: {'; '.join(first)}\n{text}"
    if database["uncompared"]:
        return f"no violation found, and {database['uncompared']} orders not compared: {text}"
    return f"clean: {text}"


def _effect(disturbance: Json) -> str:
    if disturbance["problem"]:
        return f"not carried out: {disturbance['problem']}"
    text = f"made {disturbance['made_late']} orders late"
    recovery = disturbance["recovery_seconds"]
    if disturbance["former_level_ms"] is None:
        return f"{text}; too few orders before it to know the former level"
    if disturbance["too_few_after"]:
        return f"{text}; too few orders after it to know whether completion time rose"
    if recovery is None:
        return f"{text}; completion time was not back at its former level"
    if recovery == 0:
        return f"{text}; completion time never rose above its former level"
    return f"{text}; completion time back at its former level after {recovery:.1f} s"


def times_text(times: Json) -> dict[str, str]:
    """Percentiles in ms of each named time, and of each step."""
    named = {name.removesuffix("_ms").replace("_", " "): times[name] for name in TIMES if times[name]}
    named |= {f"step {step}": spread for step, spread in times["steps_ms"].items()}
    return {
        name: ", ".join(f"{part} {spread[part]:.0f} ms" for part in ("mean", *PERCENTILES))
        for name, spread in named.items()
    }


def comparison_text(comparison: Json) -> str:
    """Differences (now less then) with their 95 % intervals, in one line; or why there are none."""
    if comparison.get("problem"):
        return f"not compared: {comparison['problem']}"
    parts = [comparison["verdict"]]
    if comparison.get("differences"):
        parts[0] += f" (not the same test: {' · '.join(comparison['differences'])})"
    for name, found in comparison["completion_ms"].items():
        interval = f"[{found['low']:+.0f}, {found['high']:+.0f}]"
        parts.append(f"{name} {found['difference']:+.0f} ms {interval} {found['verdict']}")
    late = comparison["late_share"]
    interval = f"[{late['low']:+.3%}, {late['high']:+.3%}]"
    parts.append(f"late {late['now'] - late['then']:+.3%} {interval} {late['verdict']}")
    return "; ".join(parts)


def _counts(counts: Json) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
