"""What a process has loaded is marked, and a change of it is told from a mere touch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import orjson
import pytest

from hotfd.transfer import fingerprint
from hotfd.transfer.fingerprint import Fingerprint, Mark, loaded_files, read
from hotfd.transfer.process import ORIGIN
from tests.unit.wire_support import nothing_stays_open

pytestmark = pytest.mark.usefixtures("nothing_stays_open")
__all__ = ["nothing_stays_open"]

ROOT = str(Path(__file__).parents[2])

TELL = """
import sys, orjson, words
from hotfd.transfer.fingerprint import loaded_files
from hotfd.transfer.process import ORIGIN
sys.stdout.buffer.write(orjson.dumps([loaded_files(ORIGIN), ORIGIN.exact, ORIGIN.directory]))
"""


def marked(*paths: Path) -> Fingerprint:
    return read((str(path), "") for path in paths)


def told(cwd: Path, *command: str, **environment: str) -> tuple[dict[str, str], list[str], str]:
    """Run a program that tells what it has loaded, and what it was started with."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), ROOT]))
    env = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.PIPE)
    files, exact, directory = orjson.loads(done.stdout)
    return dict(files), exact, directory


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A program in a directory with a link to it."""
    directory = tmp_path / "v1"
    directory.mkdir()
    (directory / "server.py").write_text(TELL)
    (directory / "words.py").write_text("")
    (tmp_path / "current").symlink_to(directory)
    return directory


# -- change -------------------------------------------------------------------------------------------


def test_what_has_not_been_touched_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text("one")
    before = marked(path)
    monkeypatch.setattr(fingerprint, "_digest", lambda file: pytest.fail("it was read"))
    assert before.change() is None


def test_another_content_of_the_same_size_and_age_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("one")
    before, status = marked(path), path.stat()
    other = tmp_path / "b.py"
    other.write_text("two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    assert before.change() == f"{path} has changed"


def test_the_same_content_at_another_time_and_place_on_the_disk_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("one")
    before = marked(path)
    os.utime(path, (1, 1))
    assert before.change() is None
    shutil.copyfile(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    assert before.change() is None


@pytest.mark.parametrize("instead", ["nothing", "a directory", "a pipe"])
def test_a_file_that_is_none_any_more_is_a_change(tmp_path: Path, instead: str) -> None:
    path = tmp_path / "a.py"
    path.write_text("one")
    before = marked(path)
    path.unlink()
    if instead == "a directory":
        path.mkdir()
    elif instead == "a pipe":
        os.mkfifo(path)
    change = before.change()
    assert change is not None
    assert change.startswith(str(path))


def test_the_first_of_several_changes_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    for path in paths:
        path.write_text("one")
    before = marked(*paths)
    paths[2].unlink()
    paths[1].write_text("two")
    assert before.change() == f"{paths[1]} has changed"


def test_a_distribution_is_named_by_its_name(tmp_path: Path) -> None:
    record = tmp_path / "RECORD"
    record.write_text("a.py,,")
    before = read([(str(record), "words 1.0")])
    record.write_text("a.py,,\nb.py,,")
    assert before.change() == f"the distribution words 1.0 ({record}) has changed"


def test_a_file_that_may_not_be_read_counts_by_its_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    path = tmp_path / "a.py"
    path.write_text("one")
    readable = marked(path)
    monkeypatch.setattr(fingerprint, "_open", forbidden)
    hidden = marked(path)
    assert hidden.marks[0].digest is None
    assert readable.change() is None
    assert hidden.change() is None
    os.utime(path, (1, 1))
    for before in (readable, hidden):
        change = before.change()
        assert change == f"{path} cannot be read any more (Permission denied), and may have changed"


def test_a_file_that_is_too_large_to_be_read_counts_by_its_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "MAX_HASHED", 2)
    path = tmp_path / "app.pyz"
    path.write_text("one")
    before = marked(path)
    assert before.marks[0].digest is None
    assert before.change() is None
    os.utime(path, (1, 1))
    assert before.change() == f"{path} has changed"


def test_more_files_than_can_be_remembered_count_as_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "MAX_MARKS", 1)
    paths = [tmp_path / name for name in ("a.py", "b.py")]
    for path in paths:
        path.write_text("one")
    found = marked(*paths)
    assert len(found.marks) == 1
    assert found.change() is not None
    assert not found.same(found)


def test_two_fingerprints_are_the_same_by_content_and_place(tmp_path: Path) -> None:
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    for path in (one, two):
        path.write_text("one")
    before = marked(one, two)
    os.utime(one, (1, 1))
    assert before.same(marked(two, one))
    assert not before.same(marked(one))
    two.write_text("two")
    assert not before.same(marked(one, two))


def test_paths_need_not_be_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")
    Path(path).write_text("one")
    found = read([(path, "")])
    assert found.marks[0].path == os.fsencode(path)
    assert found.change() is None


# -- what is loaded -----------------------------------------------------------------------------------


def test_the_program_its_modules_and_the_interpreter_are_marked_and_the_standard_library_is_not(release: Path) -> None:
    files, *_ = told(release, sys.executable, "server.py")
    assert {str(release / "server.py"), str(release / "words.py"), sys.executable} <= files.keys()
    assert not [path for path in files if path.startswith(os.path.dirname(os.__file__) + "/")]


def test_distributions_of_which_something_is_loaded_are_marked_by_name(release: Path) -> None:
    files, *_ = told(release, sys.executable, "server.py")
    names = {name.split()[0] for name in files.values() if name}
    assert "orjson" in names
    assert "pip" not in names
    assert all(os.path.basename(path) in fingerprint._LISTS for path, name in files.items() if name)


@pytest.mark.parametrize(
    ("listed", "loaded", "found"),
    [
        ({"RECORD": "words/__init__.py,,\n"}, "words", "RECORD"),
        ({"RECORD": "words.cpython-311-x86_64-linux-gnu.so,,\n"}, "words", "RECORD"),
        ({"RECORD": "words/__init__.py,,\n"}, "others", None),
        ({"top_level.txt": "words\n", "METADATA": ""}, "words", "METADATA"),
        ({"top_level.txt": "words\n", "METADATA": ""}, "others", None),
        ({"METADATA": ""}, "others", "METADATA"),
        ({}, "words", None),
    ],
)
def test_a_distribution_counts_when_something_of_it_is_loaded_or_nobody_knows(
    tmp_path: Path, listed: dict[str, str], loaded: str, found: str | None
) -> None:
    directory = tmp_path / "words-1.0.dist-info"
    directory.mkdir()
    for name, content in listed.items():
        (directory / name).write_text(content)
    expected = [(str(directory / found), "words 1.0")] if found else []
    assert list(fingerprint._distributions(str(tmp_path), {loaded})) == expected


def test_a_script_that_is_reached_through_a_link_is_marked_where_it_is(release: Path, tmp_path: Path) -> None:
    script = str(tmp_path / "current" / "server.py")
    files, exact, directory = told(tmp_path, sys.executable, script, "--port", "1")
    assert str(release / "server.py") in files
    assert str(release / "words.py") in files
    assert exact[1:] == [str(release / "server.py"), "--port", "1"]
    assert directory == str(tmp_path)


def test_a_script_without_links_on_its_way_keeps_its_spelling(release: Path) -> None:
    assert told(release, sys.executable, "server.py")[1][1:] == ["server.py"]
    assert told(release, sys.executable, "-c", TELL)[1][1:] == ["-c", TELL]


def test_a_module_that_is_reached_by_a_name_is_marked_by_that_name(release: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TELL)
    files, *_ = told(tmp_path, sys.executable, str(program), PYTHONPATH=str(tmp_path / "current"))
    assert str(tmp_path / "current" / "words.py") in files


def test_a_package_is_marked_file_by_file(release: Path) -> None:
    package = release / "app"
    package.mkdir()
    (package / "__main__.py").write_text(TELL.replace("words", "app.words"))
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text("")
    files, exact, _ = told(release, sys.executable, "-m", "app")
    assert {str(package / name) for name in ("__init__.py", "__main__.py", "words.py")} <= files.keys()
    assert exact[1:] == ["-m", "app"]


@pytest.mark.parametrize("through", ["v1", "current"])
def test_an_archive_is_marked_as_one_file(release: Path, tmp_path: Path, through: str) -> None:
    archive = release / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", TELL)
        file.writestr("words.py", "")
    for given in (str(tmp_path / through / "app.pyz"), f"{through}/app.pyz"):
        files, exact, _ = told(tmp_path, sys.executable, given)
        assert [path for path in files if "app.pyz" in path] == [str(archive)]
        assert os.path.join(tmp_path, exact[1]) == str(archive)


def test_everything_that_this_process_has_loaded_is_marked_with_its_content() -> None:
    files = loaded_files(ORIGIN)
    found = read(files)
    assert found.complete
    assert 20 < len(found.marks) <= len(files)
    assert all(isinstance(mark, Mark) and (mark.digest or mark.size > fingerprint.MAX_HASHED) for mark in found.marks)
