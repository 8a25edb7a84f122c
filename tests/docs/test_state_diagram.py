"""The diagram of the documentation is the one of the transition table."""

from db.domain import State
from db.transitions import STATE_MACHINE
from tests.docs.pages import DOCS, first_column

PAGE = DOCS / "explanation" / "state-machine.md"


def test_the_diagram_shows_the_transition_table() -> None:
    assert f"```mermaid\n{STATE_MACHINE.mermaid()}\n```" in PAGE.read_text()


def test_every_state_is_described() -> None:
    assert first_column(PAGE.read_text()) == [state.value for state in State]
