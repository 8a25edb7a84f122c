"""What the stack plans for a number of workers, and what a start as root changes around it."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from db.database import POOL_SIZE
from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.layout import Layout
from orchestrator.settings import Settings


def connections(workers: int) -> int:
    """How many PostgreSQL lets in beside so many workers of each kind."""
    settings = Settings(
        database_url=None, temporal_address=None, order_workers=workers, shipping_workers=workers
    )
    (server,) = (each for each in components.components(settings) if each.name == "postgres")
    (option,) = (word for word in server.command if word.startswith("max_connections="))
    return int(option.removeprefix("max_connections="))


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_postgres_lets_in_all_that_the_workers_may_ask_for_and_others(workers: int) -> None:
    assert connections(workers) >= 2 * workers * POOL_SIZE + 50


def test_a_small_stack_has_as_many_connections_as_ever() -> None:
    assert connections(2) == 100


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs the server itself, and opens nothing")
def test_what_root_opens_for_the_server_s_user_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def initialise(data: Path) -> list[Path]:
        data.mkdir(parents=True, exist_ok=True)
        return []

    monkeypatch.setattr(postgres, "_initialise", initialise)
    # Not below pytest's own directory: sockets of a home with a long name are kept elsewhere.
    with tempfile.TemporaryDirectory(prefix="orders-closed-") as directory:
        closed = Path(directory)
        layout = Layout.of(Settings(orders_home=closed / "home", database_url=None))
        layout.sockets.mkdir(parents=True)
        changed = postgres.prepare(layout)
        assert [sentence for sentence in changed if sentence.startswith(f"{closed} may be passed through")]
        assert closed.stat().st_mode & 0o777 == 0o711
        assert postgres.prepare(layout) == []


def test_what_a_start_changes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_configuration", "start_supervisor"):
        monkeypatch.setattr(f"orchestrator.embedded.stack.{name}", lambda *_, **__: None)
    monkeypatch.setattr(Stack, "_start_in_order", lambda *_: None)
    settings = Settings(orders_home=tmp_path, database_url=None, temporal_address=None)
    opens = replace(components.components(settings)[-1], prepare=lambda: ["a directory is opened"], ports=())
    said: list[str] = []
    Stack(settings, [opens]).up(report=said.append)
    assert said == ["a directory is opened"]
