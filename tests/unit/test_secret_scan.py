"""The search for planted secrets fails a test with a leak, in a test run of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT

LEAKS = {
    "print": "print(SECRET)",
    "log": "logging.getLogger().error(SECRET)",
    "setup": "",
    "process": "subprocess.run(ECHO, capture_output=True)",
    "inherited_output": "subprocess.run(ECHO)",
    "async_process": "asyncio.run(echo())",
    "capsys": "print(SECRET); capsys.readouterr()",
    "response": "client(SECRET).get('http://a')",
    "file": "(tmp_path / 'deep').mkdir(); (tmp_path / 'deep' / 'log').write_text(SECRET)",
    "server_directory": "with temporary_directory('orders-scan-') as home: (home / 'log').write_text(SECRET)",
    "skipped": "print(SECRET); pytest.skip()",
}

HEAD = """
import asyncio, logging, subprocess, sys
import httpx, pytest
from tests import secrets
from tests.directories import temporary_directory

SECRET = "planted-in-this-" + "test"
secrets.planted.add(SECRET)
ECHO = [sys.executable, "-c", f"print({SECRET!r})"]

async def echo():
    process = await asyncio.create_subprocess_exec(*ECHO, stdout=subprocess.PIPE)
    await process.communicate()

def client(text):
    return httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text)))

@pytest.fixture
def setup():
    print(SECRET)

@pytest.fixture(scope="session")
def directory_of_a_fixture(tmp_path_factory):
    (tmp_path_factory.mktemp("shared") / "log").write_text(SECRET)

def test_without_a_leak(tmp_path):
    print("no secret")
    (tmp_path / "log").write_text("no secret")
"""

LAST = """
def test_the_last_one(directory_of_a_fixture):
    pass
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_every_kind_of_leak_fails_its_test(tmp_path: Path, processes: str) -> None:
    fixtures = {"capsys", "setup"}
    tests = [
        f"def test_{name}(tmp_path{', ' + name if name in fixtures else ''}):\n    {leak or 'pass'}\n"
        for name, leak in LEAKS.items()
    ]
    file = tmp_path / "test_leaks.py"
    file.write_text("\n".join([HEAD, *tests, LAST]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.secret_scan", "-p", "no:cacheprovider"),
            *("-n", processes, "-rA", "--basetemp", tmp_path / "temporary", "--rootdir", tmp_path, file),
        ],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "planted-in-this-test" not in done.stdout, "the report has the place, not the secret"
    assert done.returncode == 1, done.stdout + done.stderr
    found = set(re.findall(r"^(?:FAILED|ERROR) \S+::test_(\w+)", done.stdout, re.MULTILINE))
    # A session fixture ends with the last test.
    assert "shared0/log: [SECRET]" in done.stdout
    assert found - {"the_last_one"} == LEAKS.keys()
