"""`report.html`: a run as one file that needs no server and no network.

The same input gives the same file. All data and Plotly are compressed in it (`loadtest.playback.document`).
"""

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from db.domain import State
from db.read_models.latency import Disturbance, FaultSpan
from db.read_models.percentiles import min_count
from loadtest.charts.palette import DARK, LIGHT
from loadtest.charts.time_breakdown import SEGMENTS
from loadtest.generator.recording import OrderRecord
from loadtest.playback import document
from loadtest.playback.run_playback import RunPlayback
from loadtest.reports.report_charts import (
    Chart,
    breakdown_charts,
    distribution_charts,
    time_axis_chart,
    timeline_chart,
    why_late_charts,
)
from loadtest.reports.run_details import RunDetails, own_disturbances, played_records
from loadtest.verdict.percentiles import PERCENTILES
from loadtest.verdict.verdict_rows import TIME_COLUMNS, RowStatus, time_rows, verdict_rows
from orchestrator.errors import ExitCode
from orchestrator.rest_client import Json

_FOLDER = Path(__file__).parent
_STATUS = {ExitCode.PASSED: "good", ExitCode.NOT_PROVEN: "open"}
_MARKS = {RowStatus.PASSED: "✓ passed", RowStatus.FAILED: "✗ failed", RowStatus.INFO: ""}


@dataclass(frozen=True)
class ReportInput:
    """One finished run. `details` is None if the order database could not be read."""

    report: Json
    records: Sequence[OrderRecord]
    details: RunDetails | None

    @property
    def started_at(self) -> datetime:
        return datetime.fromisoformat(self.report["started_at"])

    @property
    def limit_seconds(self) -> float:
        return float(self.report["limit"]["slo_seconds"])

    @property
    def faults(self) -> list[FaultSpan]:
        return [] if self.details is None else self.details.faults

    @property
    def disturbances(self) -> list[Disturbance]:
        if self.details is None:
            return own_disturbances(self.report)
        return self.details.disturbances

    @property
    def playback(self) -> RunPlayback:
        stored = None if self.details is None else self.details.orders
        orders = stored if stored and stored.shown else played_records(self.report["run_id"], self.records)
        return RunPlayback(self.started_at, self.limit_seconds, orders, self.disturbances, self.faults)


def html_report(given: ReportInput) -> str:
    """Return the file."""
    report, details = given.report, given.details
    completions = [
        (round(record.completion_ms), State(record.outcome))
        for record in given.records
        if record.completion_ms is not None and record.outcome is not None
    ]
    charts = [
        time_axis_chart(
            given.started_at, given.records, given.limit_seconds, given.faults, given.disturbances
        ),
        *distribution_charts(completions, given.limit_seconds, report["limit"]["target"]),
    ]
    timelines: list[Chart] = []
    if details is not None:
        charts += [
            *why_late_charts(details, given.limit_seconds),
            *breakdown_charts(details, given.limit_seconds),
        ]
        timelines = [timeline_chart(each) for each in details.timelines if each.has_all_events]
    plotly, script = get_plotlyjs(), _script()
    return Template((_FOLDER / "report.html").read_text(encoding="utf-8")).substitute(
        policy=html.escape(document.content_security_policy(script, plotly)),
        run_id=html.escape(report["run_id"]),
        verdict=html.escape(report["verdict"]),
        status=_STATUS.get(ExitCode(report["exit_code"]), "bad"),
        subtitle=html.escape(_subtitle(report)),
        css=document.color_css() + document.PLAYER_CSS + (_FOLDER / "report.css").read_text(encoding="utf-8"),
        tiles=_tiles(report),
        checks=_checks(report),
        times=_table(("ms", *TIME_COLUMNS), [(name, *cells) for name, cells in time_rows(report["times"])]),
        player=document.PLAYER_HTML,
        playback_note=html.escape(_playback_note(given)),
        charts="".join(_figure(f"chart-{n}", chart) for n, chart in enumerate(charts)),
        slowest=_slowest(details),
        timelines="".join(_timeline(n, chart) for n, chart in enumerate(timelines)),
        configuration=_configuration(report),
        figures=document.compressed(_figures_json(charts, timelines).encode()),
        playback=document.compressed_json(given.playback.to_json()),
        plotly=_packed_plotly(),
        script=script,
    )


@cache
def _packed_plotly() -> str:
    return document.compressed(get_plotlyjs().encode())


def _script() -> str:
    return document.PLAYER_JS + (_FOLDER / "report.js").read_text(encoding="utf-8")


def _figures_json(charts: Sequence[Chart], timelines: Sequence[Chart]) -> str:
    """Return the figures by the id of their element, and the dark color for each light one."""
    figures = [(f"chart-{n}", chart) for n, chart in enumerate(charts)]
    figures += [(f"timeline-{n}", chart) for n, chart in enumerate(timelines)]
    listed = ",".join(f"{json.dumps(name)}:{chart.to_json()}" for name, chart in figures)
    return f'{{"colors":{json.dumps(_dark_colors())},"figures":{{{listed}}}}}'


def _dark_colors() -> dict[str, str]:
    colors: dict[str, str] = {}
    for field in fields(LIGHT):
        light, dark = getattr(LIGHT, field.name), getattr(DARK, field.name)
        pairs = [(light, dark)] if isinstance(light, str) else zip(light, dark, strict=True)
        colors.update(pairs)
    return colors


def _playback_note(given: ReportInput) -> str:
    playback = given.playback
    notes = [playback.note] if playback.note else []
    if given.details is None:
        notes.append("The order database could not be read, so the steps of the orders are unknown.")
    if missing := given.report["limit"]["orders"] - playback.orders.total:
        notes.append(f"{missing:,} orders that were not accepted are not shown.")
    return " ".join(notes)


def _subtitle(report: Json) -> str:
    faults = report.get("faults") or {}
    parts = [f"scenario {report['scenario']}", f"faults {faults.get('profile') or 'unknown'}"]
    return " · ".join([*parts, f"{report['started_at'][:19].replace('T', ' ')} UTC"])


def _tiles(report: Json) -> str:
    limit, times = report["limit"], report["times"]["completion_ms"]
    tiles = [
        ("Orders", f"{limit['orders']:,}", f"offered {report['run']['offered']:,}"),
        ("Late", f"{limit['late']:,}", f"limit {limit['slo_seconds']:g} s"),
        (
            "Late share",
            f"{limit['late'] / limit['orders']:.2%}" if limit["orders"] else "–",
            f"at most {limit['late_bound']:.2%} with {limit['confidence']:.0%} confidence; "
            f"allowed {1 - limit['target']:.2%}",
        ),
    ]
    if times:
        shown = [name for name, share in PERCENTILES.items() if times["count"] >= min_count(share)]
        tiles += [
            ("Longest" if name == "max" else name, f"{times[name] / 1000:.3f} s", "completion time")
            for name in shown
            if name in ("p50", "p99", "max")
        ]
    return "".join(
        f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}<small>{html.escape(below)}</small></dd></div>"
        for label, value, below in tiles
    )


def _checks(report: Json) -> str:
    rows = []
    for row in verdict_rows(report):
        details = "".join(f"<li>{html.escape(each)}</li>" for each in row.details)
        value = html.escape(row.value).replace("\n", "<br>") + (f"<ul>{details}</ul>" if details else "")
        mark = f'<span class="mark">{_MARKS[row.status]}</span>'
        rows.append(
            f'<tr class="{row.status.value}"><th scope="row">{html.escape(row.label)} {mark}</th>'
            f"<td>{value}</td></tr>"
        )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _slowest(details: RunDetails | None) -> str:
    if details is None:
        return "<p>The order database could not be read at the end of the run.</p>"
    if not details.slowest:
        return "<p>No order has an outcome.</p>"
    return _table(
        ("order", "outcome", "total, ms", *SEGMENTS, "attempts", "failed"),
        [
            (
                row["order_id"], row["outcome"], row["completion_ms"],
                *(row[f"{segment}_ms"] for segment in SEGMENTS), row["attempts"], row["failed_attempts"],
            )
            for row in details.slowest
        ],
    )  # fmt: skip


def _configuration(report: Json) -> str:
    groups = {
        "options": report["options"],
        "faults": report.get("faults") or {},
        "machine": report.get("machine") or {},
        "versions": (report.get("versions") or {}) | {"commit": report.get("commit") or "unknown"},
    }
    return "".join(
        f"<h3>{group.capitalize()}</h3>"
        + _table(("name", "value"), [(name, _text(value)) for name, value in values.items()])
        for group, values in groups.items()
        if values
    )


def _text(value: object) -> str:
    if value in (None, "", [], ()):
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def _table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(str(first))}</th>'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _figure(name: str, chart: Chart) -> str:
    title, description = html.escape(chart.title), html.escape(chart.description)
    height = chart.figure.layout.height
    return (
        f'<figure><h3>{title}</h3><div id="{name}" class="chart" style="height:{height}px" role="img"'
        f' aria-label="{title}. {description}"></div><figcaption>{description}</figcaption></figure>'
    )


def _timeline(number: int, chart: Chart) -> str:
    title, description = html.escape(chart.title), html.escape(chart.description)
    is_open = " open" if number == 0 else ""
    return (
        f'<details{is_open}><summary>{title}</summary><div id="timeline-{number}" class="chart" role="img"'
        f' style="height:{chart.figure.layout.height}px" aria-label="{title}. {description}"></div></details>'
    )
