"""`make setup`: settings of pip and Python of other work, and directories that it must not delete."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT

# The build of a package without files and without a build backend to install.
BACKEND = """
import zipfile

def get_requires_for_build_editable(config_settings=None):
    return []

def build_editable(directory, config_settings=None, metadata_directory=None):
    metadata = "Metadata-Version: 2.1\\nName: orders\\nVersion: 1\\n"
    wheel = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(f"{directory}/orders-1-py3-none-any.whl", "w") as file:
        file.writestr("orders_installed.py", "")
        file.writestr("orders-1.dist-info/METADATA", metadata)
        file.writestr("orders-1.dist-info/WHEEL", wheel)
        file.writestr("orders-1.dist-info/RECORD", "")
    return "orders-1-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the Makefile and a package that needs no other packages."""
    directory = tmp_path / "check out"
    directory.mkdir()
    shutil.copy(PROJECT_ROOT / "Makefile", directory)
    (directory / "requirements.txt").touch()
    (directory / "backend.py").write_text(BACKEND)
    (directory / "pyproject.toml").write_text(PROJECT)
    return directory


def make_setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}", *arguments],
        cwd=checkout,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_settings_of_pip_and_python_do_not_break_the_environment(checkout: Path, tmp_path: Path) -> None:
    # The environment of other requirements is replaced.
    (checkout / ".venv").mkdir()
    for name in ("pyvenv.cfg", "stale"):
        (checkout / ".venv" / name).touch()
    elsewhere = tmp_path / "elsewhere"
    config = tmp_path / "pip.conf"
    config.write_text(f"[install]\nuser = true\n[global]\ntarget = {elsewhere}\n")
    done = make_setup(
        checkout,
        PIP_USER="1",
        PIP_TARGET=str(elsewhere),
        PIP_PREFIX=str(elsewhere),
        PIP_ROOT=str(elsewhere),
        PIP_DRY_RUN="1",
        PIP_PYTHON="/nowhere",
        PIP_CONFIG_FILE=str(config),
        PYTHONHOME=str(elsewhere),
        PYTHONPATH=str(elsewhere),
        PYTHONNOUSERSITE="1",
        PYTHONWARNINGS="error",
    )
    assert done.returncode == 0, done.stderr
    assert not elsewhere.exists()
    assert list(checkout.glob(".venv/lib/python*/site-packages/orders_installed.py"))
    assert not (checkout / ".venv" / "stale").exists()


def test_the_index_of_pip_is_kept(checkout: Path) -> None:
    makefile = checkout / "Makefile"
    makefile.write_text(f"{makefile.read_text()}\nshow:\n\t@env | grep ^PIP_\n")
    index = {
        name: f"https://example.org/{name}"
        for name in ("PIP_INDEX_URL", "PIP_CERT", "PIP_PROXY", "PIP_NO_INDEX")
    }
    shown = subprocess.run(
        ["make", "show"],
        cwd=checkout,
        env=os.environ | index | {"PIP_USER": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = shown.stdout.splitlines()
    assert {f"{name}={value}" for name, value in index.items()} <= set(lines)
    assert "PIP_USER=1" not in lines


@pytest.mark.parametrize("content", ["pyvenv.cfg", ".complete", "letter.txt"])
def test_a_directory_that_is_not_the_environment_of_this_checkout_is_kept(
    content: str, checkout: Path, tmp_path: Path
) -> None:
    other = tmp_path / "another checkout" / ".venv"
    other.mkdir(parents=True)
    (other / content).write_text("precious")
    # Older than the requirements of this checkout.
    os.utime(other / content, (1, 1))
    (other / ".checkout").write_text(f"{other.parent}\n")
    done = make_setup(checkout, f"VENV={other}")
    assert done.returncode == 2
    assert f"{other} is not the virtual environment of this checkout" in done.stderr
    assert (other / content).read_text() == "precious"


def test_a_directory_without_an_environment_is_kept_at_the_default_place(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "letter.txt").touch()
    assert make_setup(checkout).returncode == 2
    assert (checkout / ".venv" / "letter.txt").exists()


def test_an_empty_venv_is_refused(checkout: Path) -> None:
    done = make_setup(checkout, "VENV=")
    assert (done.returncode, "VENV is empty" in done.stderr) == (2, True)
