"""Backup and restore of the embedded stack, with orders in progress and with unusable files."""

import asyncio
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from orchestrator.embedded import Stack, postgres
from orchestrator.embedded.layout import Layout, stack_environment
from orchestrator.errors import StackError
from orchestrator.operations import backup
from orchestrator.settings import Settings
from tests.async_load import send_orders, wait_for_outcomes
from tests.chaos.crashes import set_faults
from tests.command_line import CommandLine
from tests.directories import temporary_directory
from tests.live import eventually
from tests.stacks import stack_settings, temporary_home, without_clients

ORDERS = 60
RATE = 6.0
BEFORE = 25
"""Starts that are acknowledged before the backup begins."""

GAP_ORDERS = 12
"""Further starts between the copy of Temporal's database and that of PostgreSQL."""


def ignore(_sentence: str) -> None:
    return None


def settings_in(home: Path) -> Settings:
    return stack_settings(home).model_copy(update={"auto_review_seconds": 0.3})


def count(settings: Settings, condition: str) -> int:
    with psycopg.connect(settings.order_database_url, autocommit=True) as connection:
        row = connection.execute(f"select count(*) from orders where {condition}".encode()).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def homes() -> Iterator[Callable[[], Path]]:
    """Makes directories; stops what runs in them and removes them at the end."""
    with ExitStack() as made:
        yield lambda: made.enter_context(temporary_home("orders backup "))


@pytest.mark.stack
@pytest.mark.proof
@pytest.mark.timeout(360)
async def test_every_order_of_a_backup_reaches_its_outcome(homes, monkeypatch):
    settings, file = settings_in(homes()), homes() / "orders.backup"
    stack = without_clients(settings)
    stack.up(bound=True)
    await set_faults(settings, "assignment")
    acknowledged: list[str] = []

    async def on_acknowledged(_http, order_id):
        acknowledged.append(order_id)

    copy_postgres = backup._copy_running_postgres

    def copy_later(*arguments):
        """Wait for new orders and new outcomes, which Temporal's copy does not have."""
        known, ended = len(acknowledged), count(settings, "state >= 'completed'")
        eventually(lambda: len(acknowledged) >= known + GAP_ORDERS)
        eventually(lambda: count(settings, "state >= 'completed'") >= ended + 3)
        return copy_postgres(*arguments)

    monkeypatch.setattr(backup, "_copy_running_postgres", copy_later)
    sending = asyncio.create_task(
        send_orders(settings.api_url, run_id="kept", rate=RATE, count=ORDERS, action=on_acknowledged)
    )
    await asyncio.to_thread(eventually, lambda: len(acknowledged) >= BEFORE)
    before = list(acknowledged)
    info = await asyncio.to_thread(backup.back_up, stack, file, ignore)
    assert info.stack == "running"
    report = await sending
    assert report.failures == {}
    # The running stack is not affected.
    assert len(await wait_for_outcomes(settings.api_url, report.acknowledged, timeout_seconds=60)) == ORDERS
    stack.down()
    shutil.rmtree(settings.home)
    settings.home.mkdir()

    restored = settings_in(homes())
    restored_at = datetime.now(UTC)
    backup.restore(without_clients(restored), file, force=False, report=ignore)
    stack = without_clients(restored)
    stack.up(bound=True)
    finished = await wait_for_outcomes(restored.api_url, before, timeout_seconds=60)
    assert sorted(finished) == sorted(before)
    await asyncio.to_thread(eventually, lambda: count(restored, "state < 'completed'") == 0, 60)
    # Some orders were in progress in the backup and finished after the restore.
    assert count(restored, f"finished_at > '{restored_at.isoformat()}'") > 0
    assert count(restored, "abort_reason = 'terminated'") > 0, "no order was unknown to Temporal's copy"
    environment = {**os.environ, **stack_environment(restored)}
    code, output = await CommandLine(environment).run("audit")
    assert code == 0, output
    # The restored system accepts new orders.
    more = await send_orders(restored.api_url, run_id="new", rate=RATE, count=6)
    assert len(await wait_for_outcomes(restored.api_url, more.acknowledged, timeout_seconds=60)) == 6
    with pytest.raises(StackError, match="A stack is running"):
        backup.restore(stack, file, force=True, report=ignore)


# --- Without a stack ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_home() -> Iterator[Path]:
    """The data of a stopped stack."""
    with temporary_directory("orders-stopped-") as home:
        layout = Layout(settings_in(home))
        for directory in (layout.control, layout.logs, layout.sockets, layout.temporal_data):
            directory.mkdir(parents=True, exist_ok=True)
        postgres.prepare(layout, lambda _: None)
        with closing(sqlite3.connect(layout.temporal_data / "temporal.db")) as database:
            database.execute("pragma journal_mode=wal")
            database.execute("create table t as select 42 as answer")
            database.commit()
        yield home


@pytest.fixture(scope="module")
def file(stopped_home: Path) -> Path:
    """A backup of `stopped_home`."""
    file = stopped_home / "stopped.backup"
    assert backup.back_up(Stack(settings_in(stopped_home)), file, ignore).stack == "stopped"
    return file


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def restore_into(home: Path, file: Path, *, force: bool = False) -> list[str]:
    """Return the reported sentences."""
    reports: list[str] = []
    backup.restore(Stack(settings_in(home)), file, force=force, report=reports.append)
    return reports


def test_a_stopped_stack_is_restored_file_for_file(stopped_home, file, homes):
    home = homes()
    assert not any("previous data" in sentence for sentence in restore_into(home, file))
    assert files_in(home / "postgres") == files_in(stopped_home / "postgres")
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (home / "postgres").stat().st_uid == (stopped_home / "postgres").stat().st_uid
    with closing(sqlite3.connect(home / "temporal" / "temporal.db")) as database:
        assert database.execute("select answer from t").fetchall() == [(42,)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_existing_data_needs_force_and_is_kept(file, homes):
    home = homes()
    restore_into(home, file)
    (home / "postgres" / "mine").write_text("precious")
    with pytest.raises(StackError, match="already contains data"):
        restore_into(home, file)
    reports = restore_into(home, file, force=True)
    (replaced,) = home.glob("replaced-*")
    assert f"the previous data is in {replaced}" in reports
    assert (replaced / "postgres" / "mine").read_text() == "precious"
    assert not (home / "postgres" / "mine").exists()


def test_a_backup_is_written_through_a_link_and_not_to_standard_output(stopped_home, homes):
    directory = homes()
    link = directory / "link"
    link.symlink_to("backup.tar.gz")
    stack = Stack(settings_in(stopped_home))
    backup.back_up(stack, link, ignore)
    assert link.is_symlink()
    assert (directory / "backup.tar.gz").stat().st_mode & 0o777 == 0o600
    assert {each.name for each in directory.iterdir()} == {"link", "backup.tar.gz"}
    with pytest.raises(StackError, match="A backup is a file"):
        backup.back_up(stack, Path("-"), ignore)


def test_a_backup_does_not_overwrite_a_file_and_needs_data(stopped_home, file, homes):
    with pytest.raises(StackError, match="exists"):
        backup.back_up(Stack(settings_in(stopped_home)), file, ignore)
    with pytest.raises(StackError, match="no data to back up"):
        backup.back_up(Stack(settings_in(homes())), homes() / "x", ignore)


def rewritten(file: Path, target: Path, **changes: str) -> Path:
    """The same backup with changed information about it."""
    with tarfile.open(file) as source, tarfile.open(target, "w:gz") as copy:
        for entry in source:
            content = source.extractfile(entry)
            data = b"" if content is None else content.read()
            if entry.name == "backup.json":
                data = json.dumps(json.loads(data) | changes).encode()
                entry.size = len(data)
            copy.addfile(entry, io.BytesIO(data))
    return target


def truncated(file: Path, target: Path) -> Path:
    target.write_bytes(file.read_bytes()[:-200_000])
    return target


def damaged(file: Path, target: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[-100_000] ^= 1
    target.write_bytes(content)
    return target


def no_backup(_file: Path, target: Path) -> Path:
    target.write_text("something else" * 100)
    return target


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "damaged"),
        (damaged, "damaged"),
        (no_backup, "not a backup"),
        (lambda _file, target: target, "No such file"),
        (lambda file, target: rewritten(file, target, postgres="17"), "made with PostgreSQL 17"),
        (lambda file, target: rewritten(file, target, temporal="99.0.0"), "Temporal 99.0.0"),
        (lambda file, target: rewritten(file, target, newest_migration="99991231_x.sql"), "newer release"),
        (lambda file, target: rewritten(file, target, machine="sparc"), "a sparc processor"),
        (lambda file, target: rewritten(file, target, namespace="other"), "TEMPORAL_NAMESPACE"),
    ],
)
def test_an_unusable_file_changes_nothing(file, homes, damage, message):
    home = homes()
    unusable = damage(file, homes() / "unusable.backup")
    with pytest.raises(StackError, match=message) as refused:
        restore_into(home, unusable, force=True)
    assert str(refused.value).count("\n") == 0
    assert list(home.iterdir()) == []


async def test_the_commands(stopped_home, homes):
    place, home = homes(), homes()
    here = CommandLine({**os.environ, "ORDERS_HOME": str(stopped_home)})
    there = CommandLine({**os.environ, "ORDERS_HOME": str(home)})
    code, output = await here.run("backup", str(place / "a.backup"))
    assert (code, "of the stopped stack" in output) == (0, True), output
    code, output = await there.run("restore", str(place / "a.backup"))
    assert (code, "make up" in output, "revoked since then is valid again" in output) == (0, True, True), (
        output
    )
    code, output = await there.run("restore", str(place / "a.backup"))
    assert (code, "--force" in output) == (2, True), output
    code, output = await CommandLine({**here.environment, "TEMPORAL_ADDRESS": "temporal.example:7233"}).run(
        "backup", str(place / "b.backup")
    )
    assert (code, "TEMPORAL_ADDRESS" in output, output.count("\n")) == (2, True, 1), output
