"""The HTML document of the page Stage, for an iframe."""

import html
import json
from pathlib import Path
from string import Template

from dashboard.stage.live_data import REFRESH_SECONDS
from loadtest.playback.document import PLAYER_JS, color_css, content_security_policy
from loadtest.playback.run_playback import PHASES

_FOLDER = Path(__file__).parent
_PAGE = Template((_FOLDER / "stage.html").read_text(encoding="utf-8"))
_CSS = (_FOLDER / "stage.css").read_text(encoding="utf-8")
_JS = PLAYER_JS + (_FOLDER / "stage.js").read_text(encoding="utf-8")


def stage_document(url: str, limit_seconds: float, theme: str | None) -> str:
    """Return the document. Its script reads `url`, the address of the live data, every second."""
    options = {
        "url": url,
        "limitMs": round(limit_seconds * 1000),
        "refreshMs": round(REFRESH_SECONDS * 1000),
        "phases": PHASES,
    }
    return _PAGE.substitute(
        theme="dark" if theme == "dark" else "light",
        policy=html.escape(content_security_policy(_JS) + "; connect-src 'self'"),
        css=color_css() + _CSS,
        options=html.escape(json.dumps(options)),
        limit=f"{limit_seconds:g}",
        script=_JS,
    )
