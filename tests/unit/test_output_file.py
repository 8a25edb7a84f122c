"""Files that are written: complete or unchanged; links, pipes and descriptors as they are."""

import os
import stat
import threading
from pathlib import Path

import pytest

from orchestrator import output_file


def test_a_new_file_has_the_usual_mode_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / ("n" * 250)
    output_file.write(file, "text\n")
    other = tmp_path / "other"
    other.touch()
    assert file.read_text() == "text\n"
    assert file.stat().st_mode == other.stat().st_mode
    assert set(tmp_path.iterdir()) == {file, other}


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o640)
    output_file.write(file, b"new", mode=0o600)
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o640)


def test_a_file_is_unchanged_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("good")

    def fail() -> None:
        with output_file.opened(file) as opened:
            opened.write(b"half")
            opened.flush()
            assert file.read_text() == "good"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "good"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, target_exists: bool) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    target, link = directory / "target", tmp_path / "link"
    if target_exists:
        target.write_text("old")
    link.symlink_to("directory/target")
    output_file.write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(directory.iterdir()) == [target]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        received: list[bytes] = []
        reader = threading.Thread(target=lambda got=received: got.append(pipe.read_bytes()))
        reader.start()
        output_file.write(path, "text")
        reader.join()
        assert received == [b"text"]
    assert pipe.is_fifo()
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_descriptor_continues_where_it_is(tmp_path: Path, name: str) -> None:
    with (tmp_path / "file").open("w+") as file:
        file.write("before\n")
        file.flush()
        output_file.write(Path(name.format(file.fileno())), "after\n")
        file.seek(0)
        assert file.read() == "before\nafter\n"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (".", IsADirectoryError),
        ("missing/file", FileNotFoundError),
        ("file/file", NotADirectoryError),
        ("loop", OSError),
    ],
)
def test_what_cannot_be_written_raises(tmp_path: Path, name: str, error: type[OSError]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(error):
        output_file.write(tmp_path / name, "text")
    assert {each.name for each in tmp_path.iterdir()} == {"file", "loop"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_a_file_without_write_permission_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o444)
    with pytest.raises(PermissionError):
        output_file.write(file, "new")
    assert file.read_text() == "old"


def test_a_full_disk_raises() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        output_file.write(Path("/dev/full"), "text")
