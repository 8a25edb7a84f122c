"""Colours that a colour-blind person can tell apart, for light and for dark pages.

From the set of M. Okabe and K. Ito (Color Universal Design, 2008), darkened or lightened for contrast. No
figure says anything by colour alone: there is a label, a place or a pattern beside it.
"""

from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from db.domain import AttemptOutcome, State, Step

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    calm: str
    good: str
    warn: str
    bad: str
    accent: str
    muted: str
    grid: str
    text: str
    on_mark: str
    """Text on any of the colours above."""

    band: str
    scale: tuple[str, ...]
    """From little to much."""

    def of_outcome(self, outcome: State) -> str:
        return {State.COMPLETED: self.good, State.CANCELLED: self.warn, State.FAILED: self.bad}.get(
            outcome, self.calm
        )

    def of_attempt(self, outcome: AttemptOutcome) -> str:
        return {
            AttemptOutcome.OK: self.good,
            AttemptOutcome.ERROR: self.bad,
            AttemptOutcome.TIMEOUT: self.warn,
            AttemptOutcome.DECLINED: self.accent,
            AttemptOutcome.LOST: self.text,
        }[outcome]

    def of_part(self, part: str) -> str:
        """The colour of one part of an order's time."""
        return {
            Step.RECEIVE: self.scale[1],
            Step.VALIDATE: self.scale[2],
            Step.REVIEW: self.accent,
            Step.CHARGE: self.good,
            Step.PREPARE: self.calm,
            Step.DISPATCH: self.warn,
            "compensate": self.bad,
            "waiting": self.muted,
        }[part]


LIGHT = Palette(
    calm="#0072b2",
    good="#00835f",
    warn="#c77f00",
    bad="#c8500a",
    accent="#a8568a",
    muted="#9aa5b1",
    grid="#e3e8ee",
    text="#17212b",
    on_mark="#ffffff",
    band="#c8500a",
    scale=("#f3f6f9", "#bcd9ee", "#7fb5dc", "#3f8cc4", "#0f5f9e", "#083a66"),
)
DARK = Palette(
    calm="#56b4e9",
    good="#2bbf95",
    warn="#e9a820",
    bad="#f0783c",
    accent="#d590ba",
    muted="#70808f",
    grid="#2a3642",
    text="#e8eef4",
    on_mark="#10161d",
    band="#f0783c",
    scale=("#1a232d", "#1d4564", "#266a99", "#3f92c9", "#7dbfe8", "#d3ecfb"),
)


def palette_of(theme: str | None) -> Palette:
    """Light unless the page is dark."""
    return DARK if theme == "dark" else LIGHT


def framed(figure: go.Figure, palette: Palette, *, height: int) -> go.Figure:
    """The same frame for every figure: its height in pixels and quiet axes."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.text, "size": 13},
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom", "title": None},
        hoverlabel={"font": {"size": 13}},
        # Otherwise a dark slab over the light page.
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.text},
        transition={"duration": 0},
    )
    figure.update_xaxes(gridcolor=palette.grid, zeroline=False, automargin=True, linecolor=palette.grid)
    figure.update_yaxes(gridcolor=palette.grid, zeroline=False, automargin=True, linecolor=palette.grid)
    return figure


def limit_line(
    figure: go.Figure, palette: Palette, at: float, limit_seconds: float, *, vertical: bool = True
) -> None:
    """Draws the limit across the figure at the place `at` of its axis, with its name."""
    across: dict[str, object] = {"xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1}
    named: dict[str, object] = {
        "xref": "x",
        "yref": "paper",
        "x": at,
        "y": 1,
        "xanchor": "right",
        "yanchor": "top",
    }
    if not vertical:
        across = {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": at, "y1": at}
        named = {"xref": "paper", "yref": "y", "x": 0, "y": at, "xanchor": "left", "yanchor": "bottom"}
    line = {"type": "line", "line": {"color": palette.bad, "width": 2, "dash": "dash"}}
    text = {"text": f"limit {limit_seconds:g} s ", "showarrow": False, "font": {"color": palette.bad}}
    add_marks(figure, [line | across], [text | named])


def hold_still(figure: go.Figure) -> None:
    """Takes the zoom from a figure that is drawn anew at every tick, which would lose it again."""
    figure.update_layout(dragmode=False)
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)


def add_marks(
    figure: go.Figure, shapes: list[dict[str, object]], annotations: list[dict[str, object]]
) -> None:
    """Draws these over whatever the figure has already."""
    figure.update_layout(
        shapes=[*figure.layout.shapes, *shapes], annotations=[*figure.layout.annotations, *annotations]
    )
