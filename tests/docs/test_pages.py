"""Links, paths and size of the documentation's pages."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.docs.pages import CODE, DOCS, FENCED, PAGES, page_id

MAX_LINES = 160
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROJECT_PATH = re.compile(r"(?:db|orchestrator|loadtest|dashboard|tests|docs)/[\w./-]*")
PROJECT_MODULE = re.compile(r"(?:db|orchestrator|loadtest|dashboard|tests)(?:\.[a-z_]+)+")
METHOD = re.compile(r"([A-Z]\w+)\.(\w+)")
DOCS_PATH = re.compile(r"\bdocs/[\w./-]*\w")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_anchors_exist(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def is_file(path: str) -> bool:
    return any(PROJECT_ROOT.glob(path.rstrip("/")))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, a package, or a name inside one."""
    module, parent = name.replace(".", "/"), name.rpartition(".")[0].replace(".", "/")
    return any((PROJECT_ROOT / f"{path}{end}").exists() for path in (module, parent) for end in ("", ".py"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    code = CODE.findall(page.read_text())
    paths = [path for each in code for path in PROJECT_PATH.findall(each)]
    modules = [each for each in code if PROJECT_MODULE.fullmatch(each)]
    assert [path for path in paths if not is_file(path)] == []
    assert [module for module in modules if not is_module(module)] == []


@cache
def source() -> dict[str, str]:
    """The text of each class, by its name."""
    classes = {}
    for package in ("db", "orchestrator", "loadtest", "dashboard"):
        for file in (PROJECT_ROOT / package).rglob("*.py"):
            for name, body in re.findall(
                r"^class (\w+).*?:\n(.*?)(?=^\S|\Z)", file.read_text(), re.MULTILINE | re.DOTALL
            ):
                classes[name] = classes.get(name, "") + body
    return classes


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_methods_that_a_page_names_exist(page: Path) -> None:
    classes = source()
    named = [found.groups() for code in CODE.findall(page.read_text()) if (found := METHOD.fullmatch(code))]
    assert [each for each in named if f"def {each[1]}(" not in classes.get(each[0], "")] == []


def test_pages_that_code_and_files_name_exist() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    missing = []
    for name in tracked:
        file = PROJECT_ROOT / name
        if name.startswith("docs/") or not file.is_file() or file.suffix in (".png", ".gz", ".bin"):
            continue
        named = DOCS_PATH.findall(file.read_text(errors="ignore"))
        # A decision may be named by its number alone: docs/decisions/0003.
        missing += [f"{name}: {path}" for path in named if not any(PROJECT_ROOT.glob(f"{path}*"))]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= MAX_LINES


def test_the_index_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    decisions = (DOCS / "decisions" / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        if page.name == "README.md":
            continue
        if page.parent.name == "decisions":
            assert f"({page.name})" in decisions, page.name
        else:
            assert f"({page.relative_to(DOCS)})" in index, page.name
