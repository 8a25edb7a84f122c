"""The command line against a running stack: what it prints, and its exit codes."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.embedded import Stack
from orchestrator.embedded.layout import stack_environment
from tests.command_line import Command, commands_for
from tests.live import LiveApi, eventually, new_id
from tests.orders import OTHER_ADDRESS

pytestmark = pytest.mark.stack

UNUSED_URL = "http://127.0.0.1:1"


@pytest.fixture
def command(
    live_stack: Stack, live: LiveApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return commands_for(live_stack.settings, monkeypatch, capsys)


# --- Orders -------------------------------------------------------------------------------------


def test_start_status_history_and_list(command: Command) -> None:
    order_id, run_id = new_id(), new_id()
    address = {"street": "9 Elm", "city": "Ogdenville", "state": "IL", "zip": "60000"}
    result = command(
        "start", order_id, "--address", json.dumps(address),
        "--item", "CUP:RED:2:1250", "--item", "TEA:1:300", "--payment-id", f"p-{order_id}",
        "--run-id", run_id,
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.out == f"{order_id}: the order is accepted (workflow order-{order_id})\n"
    status = command("status", order_id, "--wait", "20", "--json").json()
    assert (status["status"], status["result"]["amount_cents"]) == ("completed", 2800)

    shown = command("status", order_id)
    assert shown.exit_code == 0
    for text in (order_id, "completed", "within the limit", "28.00 USD"):
        assert text in shown.out
    accepted = command("history", order_id, "--json").json()["events"][0]["detail"]
    assert accepted["address"] == address
    assert accepted["payment_id"] == f"p-{order_id}"
    printed = command("history", order_id).out
    assert "accepted" in printed
    assert "outcome" in printed
    listed = command("list", "--run-id", run_id, "--json").json()
    assert [order["order_id"] for order in listed["orders"]] == [order_id]
    assert order_id in command("list", "--run-id", run_id, "--state", "completed").out
    assert order_id not in command("list", "--run-id", run_id, "--state", "failed").out


def test_the_list_has_a_cursor_for_the_next_page(command: Command, live: LiveApi) -> None:
    run_id = new_id()
    for order_id in [live.start(run_id=run_id) for _ in range(3)]:
        live.finished(order_id)
    first = command("list", "--run-id", run_id, "--limit", "2", "--json").json()
    assert f"--cursor {first['next_cursor']}" in command("list", "--run-id", run_id, "--limit", "2").out
    rest = command("list", "--run-id", run_id, "--cursor", first["next_cursor"], "--json").json()
    assert len({order["order_id"] for order in first["orders"] + rest["orders"]}) == 3


def test_start_is_idempotent_and_rejects_other_content(command: Command) -> None:
    order_id = new_id()
    assert command("start", order_id, "--json").json()["status"] == "started"
    assert command("start", order_id, "--json").json()["status"] == "already_started"
    assert command("start", order_id, "--item", "CUP:1:1").refuses(1, "this id and other content")


def test_every_request_about_a_running_order(command: Command, live: LiveApi) -> None:
    order_id = new_id()
    assert command("start", order_id, "--review", "manual").exit_code == 0
    live.in_state(order_id, "in_review")
    changed = command(
        "update-address", order_id, "--address", json.dumps(asdict(OTHER_ADDRESS)), "--updated-by", "me"
    )
    assert (changed.exit_code, changed.out) == (0, f"{order_id}: the address is changed\n")
    assert command("approve", order_id, "--reviewer", "me", "--json").json()["accepted"]
    live.finished(order_id)
    late = command("cancel", order_id, "--reason", "late", "--cancelled-by", "me")
    assert late.refuses(1, "too late: the order is completed")

    rejected = live.start(review="manual")
    live.in_state(rejected, "in_review")
    assert command("reject", rejected, "--reviewer", "me", "--reason", "no").exit_code == 0
    assert live.finished(rejected)["reason"] == "review_rejected"
    cancelled = live.start(review="manual")
    assert command("cancel", cancelled, "--reason", "why not").exit_code == 0
    assert live.finished(cancelled)["reason"] == "customer_cancelled"


def test_test_passes_with_a_completed_order(command: Command) -> None:
    order_id = new_id()
    result = command("test", order_id)
    assert result.exit_code == 0
    # States before the last one can pass between two polls.
    assert "completed" in result.out
    assert "within the limit" in result.out
    assert command("test", order_id).refuses(1, "exists already")
    assert command("test", new_id(), "--json").json()["within_limit"]


def test_test_fails_with_an_order_that_does_not_complete(command: Command, live: LiveApi) -> None:
    live.http.put("/faults", json={"profile": "custom", "rates": {"steps": {"charge": {"decline": 1.0}}}})
    try:
        eventually(lambda: command("test", new_id()).exit_code == 3)
        result = command("test", new_id())
    finally:
        live.http.put("/faults", json={"profile": "none"})
    assert result.exit_code == 3
    assert "payment_declined" in result.out


# --- Operations ---------------------------------------------------------------------------------


def test_audit_passes_without_violations(command: Command, live: LiveApi) -> None:
    live.finished(live.start(run_id=(run_id := new_id())))
    report = command("audit", "--run", run_id, "--json").json()
    assert (report["clean"], report["finished"]) == (True, 1)
    result = command("audit")
    assert result.exit_code == 0
    assert "nothing is charged before approval" in result.out


def test_audit_exits_4_when_an_invariant_is_broken(
    command: Command, live: LiveApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tests/mutants break invariants; this test covers the output only.
    broken = live.http.get("/audit").json()
    broken["clean"] = False
    broken["invariants"][2]["holds"] = False
    broken["violations"] = [
        {"invariant": 3, "order_id": "o-1", "finding": "charged twice", "evidence": {"ledger": [100, 100]}}
    ]
    monkeypatch.setattr("orchestrator.cli.system._audit", lambda client, run: broken)
    result = command("audit")
    assert result.exit_code == 4
    assert "invariant 3, order o-1: charged twice" in result.out
    assert command("audit", "--json").exit_code == 4


def test_export_writes_a_complete_file_or_none(command: Command, live: LiveApi, tmp_path: Path) -> None:
    run_id = new_id()
    live.finished(live.start(run_id=run_id))
    target = tmp_path / "orders.csv"
    assert command("export", "--run", run_id, "--csv", str(target)).out == f"1 orders in {target}\n"
    assert command("export", "--run", run_id, "--csv", "-").out == target.read_text()
    with target.open() as file:
        assert [row["run_id"] for row in csv.DictReader(file)] == [run_id]
    missing = tmp_path / "no" / "orders.csv"
    assert command("export", "--csv", str(missing)).refuses(2, "No such file or directory")
    assert command("export", "--csv", str(tmp_path)).refuses(2, "irectory")
    unavailable = command("export", "--csv", str(tmp_path / "x.csv"), "--api-url", UNUSED_URL)
    assert unavailable.refuses(1, "no connection to the API at")
    typo = command("export", "--run", f"{run_id}-typo", "--csv", str(tmp_path / "typo.csv"))
    assert typo.refuses(2, f"there is no run {run_id}-typo")
    assert list(tmp_path.iterdir()) == [target]


def test_export_writes_through_pipes_and_links(
    command: Command, live_stack: Stack, live: LiveApi, tmp_path: Path
) -> None:
    run_id = new_id()
    live.finished(live.start(run_id=run_id))
    csv_text = command("export", "--run", run_id, "--csv", "-").out
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    link.symlink_to(target)
    assert command("export", "--run", run_id, "--csv", str(link)).exit_code == 0
    assert link.is_symlink()
    assert target.read_text() == csv_text
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert command("export", "--run", run_id, "--csv", str(pipe)).exit_code == 0
        assert reader.communicate()[0] == csv_text
    assert pipe.is_fifo()
    export = f"{sys.executable} -m orchestrator export --run {run_id} --csv"
    for shell, out in (
        (f"{export} /dev/stdout", csv_text),
        (f"{export} /dev/fd/3 3>&1", csv_text),
        (f"echo first > out; {export} /dev/stdout >> out; cat out", f"first\n{csv_text}"),
        (f"{export} - | head -c 8", csv_text[:8]),
        (f"{sys.executable} -m orchestrator list | head -c 0", ""),
    ):
        done = subprocess.run(
            shell,
            shell=True,
            cwd=tmp_path,
            env=stack_environment(live_stack.settings),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == (out, "")


@pytest.mark.parametrize("arguments", ["export --csv -", "list --json"])
def test_a_full_disk_is_one_sentence(live_stack: Stack, live: LiveApi, arguments: str) -> None:
    live.start()
    done = subprocess.run(
        f"{sys.executable} -m orchestrator {arguments} > /dev/full",
        shell=True,
        env=stack_environment(live_stack.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "Cannot write the output: No space left on device.\n"
    assert done.returncode == 1


def test_a_failed_export_keeps_the_file(command: Command, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text("good")
    assert command("export", "--csv", str(good), "--api-url", UNUSED_URL).exit_code == 1
    assert command("export", "--csv", str(good), "--run", "no-such-run").exit_code == 2
    assert good.read_text() == "good"
    assert command("export", "--csv", "/dev/full").refuses(
        1, "Cannot write /dev/full: No space left on device."
    )
    assert list(tmp_path.iterdir()) == [good]


def test_order_ids_that_look_like_options_or_numbers(command: Command, live: LiveApi) -> None:
    run_id = new_id()
    number = -int(time.time() * 1000)
    ids = [str(number), f"00{-number}", f"NA{-number}"]
    for order_id in ids:
        assert command("start", order_id, "--run-id", run_id).exit_code == 0
        live.finished(order_id)
        assert command("status", order_id, "--json").json()["order_id"] == order_id
        assert command("history", "--", order_id).exit_code == 0
    text = command("export", "--run", run_id, "--csv", "-").out
    # As docs/reference/latency-csv.md says.
    frame = pd.read_csv(io.StringIO(text), dtype={"order_id": str, "run_id": str}, keep_default_na=False)
    assert sorted(frame["order_id"].str.removeprefix("'")) == sorted(ids)
    assert command("status", str(number), "--nonsense").exit_code == 2
    assert command("start", "--nonsense").exit_code == 2
    assert command("start", "--run-id", "-5", "--nonsense").exit_code == 2


def test_faults_are_set_and_shown(command: Command) -> None:
    try:
        result = command("faults", "set", "assignment", "--seed", "7")
        assert result.exit_code == 0
        assert command("faults").out == command("faults", "show").out == result.out
        assert result.out.startswith("assignment, seed 7 since ")
        assert "error 0.33" in result.out
        shown = command("faults", "show", "--json").json()
        assert (shown["profile"], shown["seed"]) == ("assignment", 7)
        custom = '{"steps": {"charge": {"error": 0.5}}}'
        assert "charge: error 0.5" in command("faults", "set", "custom", "--rates", custom).out
        assert command("faults", "set", "unknown-profile").refuses(2, "assignment")
        assert command("faults", "set", "custom", "--rates", "{").refuses(2, "JSON")
    finally:
        assert command("faults", "set", "none").exit_code == 0


# --- Wrong usage ------------------------------------------------------------------------


def test_an_unknown_order_gives_one_sentence(command: Command) -> None:
    for arguments in (["status"], ["history"], ["cancel", "--reason", "r"], ["approve"]):
        name, *options = arguments
        assert command(name, "unknown", *options).refuses(1, "there is no order unknown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "a b"], "'a b' is not an order id"),
        (["status", "a/b"], "'a/b' is not an order id"),
        (["history", "first/status?"], "is not an order id"),
        (["cancel", "..", "--reason", "r"], "'..' is not an order id"),
        (["start", "x", "--item", "CUP"], "must be SKU:QUANTITY:CENTS"),
        (["start", "x", "--item", "CUP:0:1"], "greater than or equal to 1"),
        (["start", "x", "--address", "[1]"], "JSON object"),
        (["start", "x", "--address", "{}"], "body.initial_address.street"),
        (["update-address", "x", "--address", "1"], "JSON object"),
        (["status", "x", "--api-url", "nonsense"], "not the address of an API"),
        (["list", "--run-id", "my run"], "query.run_id"),
        (["list", "--cursor", "nonsense"], "query.cursor"),
        (["audit", "--run", "my run"], "query.run_id"),
        (["export", "--csv", "-", "--run", "my run"], "query.run_id"),
    ],
)
def test_wrong_usage_exits_2(command: Command, arguments: list[str], message: str) -> None:
    assert command(*arguments).refuses(2, message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["nonsense"],
        ["cancel", "x"],
        ["start", "x", "--review", "never"],
        ["worker", "none"],
        ["update-address", "x"],
    ],
)
def test_a_wrong_command_line_exits_2_with_a_hint(command: Command, arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.err


def test_an_unavailable_api_gives_one_sentence(command: Command) -> None:
    for arguments in (["status", "x"], ["list"], ["audit"], ["faults"], ["test", "x"]):
        assert command(*arguments, "--api-url", UNUSED_URL).refuses(1, "start the stack with `make up`")


def test_the_api_names_a_port_in_use(command: Command, live_stack: Stack) -> None:
    port = live_stack.settings.port("api")
    assert command("api").refuses(2, f"port {port} cannot be used on 127.0.0.1")


def test_wrong_settings_are_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "many")
    assert command("status", "x").refuses(2, "API_PORT")


def test_exit_codes_reach_the_shell(live_stack: Stack, live: LiveApi) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *arguments],
            env=stack_environment(live_stack.settings),
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("--help").returncode == 0
    assert run("list", "--json").returncode == 0
    unknown = run("status", "unknown")
    assert (unknown.returncode, unknown.stderr) == (1, "there is no order unknown\n")
    assert run("status", "a b").returncode == 2
