"""The colors of charts on light and dark pages, and the layout that all charts share.

The hues are those of M. Okabe and K. Ito (Color Universal Design, 2008), which color-blind people can
distinguish, with other lightness: text of every color has the contrast of WCAG 2.2 AA on the page. No
information depends on color alone: every chart also uses a label, a position or a pattern.
"""

from dataclasses import dataclass

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
    """Text on a mark of any color above."""

    band: str
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


def apply_layout(figure: go.Figure, palette: Palette, *, height: int) -> None:
    """Apply the common layout; `height` is in pixels."""
    figure.update_layout(
        # Plotly's template has the colors of another palette.
        template=None,
        height=height,
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": palette.text, "size": 13},
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom", "title": None},
        hoverlabel={"font": {"size": 13}},
        # The default mode bar is dark, on light pages too.
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.text},
    )
    axis = {
        "gridcolor": palette.grid,
        "zeroline": False,
        "automargin": True,
        "linecolor": palette.grid,
        "ticklabeloverflow": "allow",
    }
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)


def limit_line(
    figure: go.Figure,
    palette: Palette,
    at: float,
    limit_seconds: float,
    *,
    vertical: bool = True,
    label: str = "top left",
) -> None:
    """Draw the limit as a line at the axis coordinate `at`, with a label at this side of the line."""
    add_line = figure.add_vline if vertical else figure.add_hline
    add_line(
        at,
        line={"color": palette.error, "width": 2, "dash": "dash"},
        annotation={"text": f"limit {limit_seconds:g} s ", "font": {"color": palette.error}},
        annotation_position=label,
    )


def disable_zoom(figure: go.Figure) -> None:
    """Disable zooming in a figure whose ranges move at every refresh."""
    figure.update_layout(dragmode=False)
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)


def add_marks(
    figure: go.Figure, shapes: list[dict[str, object]], annotations: list[dict[str, object]]
) -> None:
    """Append shapes and annotations in one update: Plotly's `add_vrect` takes 0.1 s in a figure with many."""
    figure.update_layout(
        shapes=[*figure.layout.shapes, *shapes], annotations=[*figure.layout.annotations, *annotations]
    )
