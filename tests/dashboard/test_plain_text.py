"""Escaping: user text is never interpreted as Markdown or HTML."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from markdown_it import MarkdownIt

from loadtest.charts import plain_text

MARKUP = [
    "<b>x</b>",
    "![x](http://evil/x.png)",
    "$x$",
    ":red[x]",
    ":material/x:",
    "`x`",
    "# x",
    "- x",
    "1. x",
    "a\n\nb",
    "\\",
]


@given(some.text())
def test_escaped_text_is_one_plain_paragraph(text):
    escaped = plain_text.markdown(text)
    tokens = MarkdownIt().parse("x " + escaped)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    kinds = {child.type for child in tokens[1].children}
    assert kinds <= {"text", "text_special", "softbreak"}


@pytest.mark.parametrize("text", MARKUP)
def test_all_streamlit_markup_is_escaped(text):
    escaped = plain_text.markdown(text)
    for n, character in enumerate(escaped):
        if character in "<![$:`#-.*_":
            assert escaped[n - 1] == "\\", escaped


def test_chart_text_has_no_tags():
    assert plain_text.chart('<a href="x">&</a>') == '&lt;a href="x"&gt;&amp;&lt;/a&gt;'
