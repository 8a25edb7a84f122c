"""Parts of self-contained HTML documents: style, scripts and compressed data; and the page of a playback.

A document makes no network request: its Content Security Policy allows only the scripts that it contains.
"""

import base64
import gzip
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from db.domain import TERMINAL_STATES
from loadtest.charts.palette import palette_of
from loadtest.playback.run_playback import PHASES, RunPlayback

_FOLDER = Path(__file__).parent
PLAYER_HTML = (_FOLDER / "player.html").read_text(encoding="utf-8")
PLAYER_CSS = (_FOLDER / "player.css").read_text(encoding="utf-8")
PLAYER_JS = "".join(
    (_FOLDER / name).read_text(encoding="utf-8") for name in ("race.js", "player.js", "unpack.js")
)
_PAGE = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))

_SURFACES = {
    "light": ("#ffffff", "#f3f6f9", "#5b6874", "#7b8894"),
    "dark": ("#10161d", "#1a232d", "#a9b6c2", "#7d8c9a"),
}
"""Background and surface of dashboard/theme.toml, secondary text, and the border of controls."""


def compressed(content: bytes) -> str:
    """Return gzip in base64, for `unpack` of `unpack.js`. The same content gives the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def compressed_json(value: Any) -> str:
    return compressed(json.dumps(value, separators=(",", ":")).encode())


def color_css() -> str:
    """Return the colors as CSS properties, for light and dark pages."""
    light, dark = (
        f"color-scheme:{theme};" + "".join(f"--{name}:{color};" for name, color in colors(theme).items())
        for theme in ("light", "dark")
    )
    return (
        f":root{{{light}}}"
        f'@media screen{{:root[data-theme="dark"]{{{dark}}}}}'
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme]){{{dark}}}}}"
    )


def colors(theme: str) -> dict[str, str]:
    """Return the colors of a theme by the names of their CSS properties."""
    palette = palette_of(theme)
    background, surface, quiet, control = _SURFACES[theme]
    named = {"background": background, "surface": surface, "quiet": quiet, "control": control}
    named |= {
        name: getattr(palette, name) for name in ("text", "muted", "grid", "band", "info", "success", "error")
    }
    named["late"] = palette.error
    named |= {f"phase-{phase}": palette.of_segment(phase) for phase in PHASES}
    named |= {f"outcome-{outcome.value}": palette.of_outcome(outcome) for outcome in TERMINAL_STATES}
    return named


def content_security_policy(*scripts: str) -> str:
    """Return a policy that allows these scripts, inline styles, and no network request."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def playback_page(playback: RunPlayback, theme: str | None) -> str:
    """Return a whole page with the playback, which fills the height of its iframe."""
    script = PLAYER_JS + (_FOLDER / "page.js").read_text(encoding="utf-8")
    return _PAGE.substitute(
        theme="dark" if theme == "dark" else "light",
        policy=html.escape(content_security_policy(script)),
        css=color_css() + PLAYER_CSS,
        player=PLAYER_HTML,
        data=compressed_json(playback.to_json()),
        script=script,
    )
