"""The colors of charts on light and dark pages, and the layout that all charts share.

The hues are those of M. Okabe and K. Ito (Color Universal Design, 2008), which color-blind people can
distinguish, with other lightness: on the page, the colors `info` to `accent` have the contrast that WCAG 2.2
AA requires of text, and `muted` that of marks. No information depends on color alone: every chart also uses a
label, a position or a pattern.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import plotly.graph_objects as go

from db.domain import AttemptOutcome, State, Step


@dataclass(frozen=True)
class Palette:
    info: str
    success: str
    warning: str
    error: str
    accent: str
    muted: str
    grid: str
    text: str
    on_mark: str
    """Text on a mark of the colors `info` to `accent`."""

    band: str
    """The area between two percentiles."""

    scale: tuple[str, ...]
    """Low to high."""

    def of_outcome(self, outcome: State) -> str:
        return {State.COMPLETED: self.success, State.CANCELLED: self.warning, State.FAILED: self.error}.get(
            outcome, self.info
        )

    def of_attempt(self, outcome: AttemptOutcome) -> str:
        return {
            AttemptOutcome.OK: self.success,
            AttemptOutcome.ERROR: self.error,
            AttemptOutcome.TIMEOUT: self.warning,
            AttemptOutcome.DECLINED: self.accent,
            AttemptOutcome.LOST: self.text,
        }[outcome]

    def of_segment(self, segment: str) -> str:
        return {
            Step.RECEIVE: self.scale[1],
            Step.VALIDATE: self.scale[2],
            Step.REVIEW: self.accent,
            Step.CHARGE: self.success,
            Step.PREPARE: self.info,
            Step.DISPATCH: self.warning,
            "compensate": self.error,
            "waiting": self.muted,
        }[segment]


LIGHT = Palette(
    info="#0072b2",
    success="#007a59",
    warning="#a66900",
    error="#b22a1b",
    accent="#a05083",
    muted="#76818d",
    grid="#e3e8ee",
    text="#17212b",
    on_mark="#ffffff",
    band="#b22a1b",
    scale=("#f3f6f9", "#bcd9ee", "#7fb5dc", "#3f8cc4", "#0f5f9e", "#083a66"),
)
DARK = Palette(
    info="#56b4e9",
    success="#2bbf95",
    warning="#e9a820",
    error="#f0783c",
    accent="#d590ba",
    muted="#70808f",
    grid="#2a3642",
    text="#e8eef4",
    on_mark="#10161d",
    band="#f0783c",
    scale=("#1a232d", "#1d4564", "#266a99", "#3f92c9", "#7dbfe8", "#d3ecfb"),
)


def palette_of(theme: str | None) -> Palette:
    return DARK if theme == "dark" else LIGHT


class Marks(NamedTuple):
    """Shapes and annotations of a figure's layout."""

    shapes: list[dict[str, object]]
    annotations: list[dict[str, object]]


def set_layout(
    figure: go.Figure,
    palette: Palette,
    *,
    height: int,
    axes: Mapping[str, Mapping[str, object]],
    marks: Iterable[Marks] = (),
    zoom: bool = True,
    legend: Mapping[str, object] | None = None,
    **more: object,
) -> None:
    """Set the layout of a figure: what all charts share, and its own `axes` by name, `legend` and options.

    `height` is in pixels. Without `zoom`, the user cannot zoom, for figures whose ranges move at a refresh.
    The layout is set in one assignment: each update of a Plotly figure takes some milliseconds.
    """
    axis = {
        "gridcolor": palette.grid,
        "zeroline": False,
        "automargin": True,
        "linecolor": palette.grid,
        "ticklabeloverflow": "allow",
    }
    if not zoom:
        axis["fixedrange"] = True
        more["dragmode"] = False
    drawn = list(marks)
    figure.layout = {
        # An empty one: Plotly's default template has the colors of another palette.
        "template": {},
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 24, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": palette.text, "size": 13},
        "legend": {"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"} | dict(legend or {}),
        "hoverlabel": {"font": {"size": 13}},
        # The default mode bar is dark, on light pages too.
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.text},
        "shapes": [shape for each in drawn for shape in each.shapes],
        "annotations": [annotation for each in drawn for annotation in each.annotations],
        **{name: axis | dict(own) for name, own in axes.items()},
        **more,
    }


_LABEL_PLACES = {
    "top left": {"xanchor": "right", "y": 1, "yanchor": "top"},
    "top": {"xanchor": "center", "y": 1, "yanchor": "bottom"},
    "bottom left": {"xanchor": "right", "y": 0, "yanchor": "bottom"},
    "bottom right": {"xanchor": "left", "y": 0, "yanchor": "bottom"},
}


def vertical_line(
    at: float, text: str, *, color: str, text_color: str, dash: str = "dash", label: str = "top left"
) -> Marks:
    """Return a line at a coordinate of the x axis over the whole height. `label` is the place of its text."""
    return Marks(
        [
            {
                "type": "line", "xref": "x", "x0": at, "x1": at, "yref": "y domain", "y0": 0, "y1": 1,
                "line": {"color": color, "width": 2, "dash": dash},
            }
        ],
        [
            {
                "xref": "x", "x": at, "yref": "y domain", "text": text, "showarrow": False,
                "font": {"color": text_color}, **_LABEL_PLACES[label],
            }
        ],
    )  # fmt: skip


def limit_line(palette: Palette, at: float, limit_seconds: float, *, label: str = "top left") -> Marks:
    """Return the limit as a vertical line at the axis coordinate `at`."""
    # The space separates a text at the left of the line from the line.
    text = f"limit {limit_seconds:g} s "
    return vertical_line(at, text, color=palette.error, text_color=palette.error, label=label)


def horizontal_limit_line(
    palette: Palette, at: float, limit_seconds: float, *, yaxis: str = "y", width: str = "x domain"
) -> Marks:
    """Return the limit as a horizontal line at the axis coordinate `at`. `width`: the xref that it spans."""
    return Marks(
        [
            {
                "type": "line", "xref": width, "x0": 0, "x1": 1, "yref": yaxis, "y0": at, "y1": at,
                "line": {"color": palette.error, "width": 2, "dash": "dash"},
            }
        ],
        [
            {
                "xref": width, "x": 0, "xanchor": "left", "yref": yaxis, "y": at, "yanchor": "bottom",
                "text": f"limit {limit_seconds:g} s", "showarrow": False, "font": {"color": palette.error},
            }
        ],
    )  # fmt: skip
