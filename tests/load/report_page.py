"""Reads `report.html` and the page of a playback."""

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any


class ReportPage(HTMLParser):
    """The tags and the text of a page. `unpacked` returns the compressed data of an element by its id."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._data: dict[str, str] = {}
        self._script: str | None = None
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script:
            self._data[self._script] = self._data.get(self._script, "") + data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def unpacked(self, name: str) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(self._data[name])))
