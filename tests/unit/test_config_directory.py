"""The directory of a store: who may use it, what is damaged in it, and what is said then."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hotfd.config import rollout
from hotfd.config.directory import THREADS, DirectoryStore
from hotfd.config.directory_files import MAX_HEADS, StoreDirectory
from hotfd.config.directory_ledger import MAX_REPORT, Ledger
from hotfd.config.reader import note
from hotfd.config.rollout import For
from hotfd.errors import ConfigError, StoreError
from tests.unit.config_stores import MEMORY, publish, publishing, report, sealed
from tests.unit.wire_support import open_descriptors, wait_for_given_up_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hotfd.config.rollout import Step

NOBODY = 65534


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    wait_for_given_up_threads()
    left = open_descriptors() - before
    # The event loop's and its threads' own come and go with pytest's fixtures.
    assert [each for each in left if "store" in each or "inotify" in each] == []


@pytest.fixture
def place() -> Iterator[Path]:
    """A path for a store that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="hotfd-store-", dir=MEMORY) as parent:
        os.chmod(parent, 0o755)
        yield Path(parent, "store")


@pytest.fixture
def store(place: Path) -> DirectoryStore:
    """A store with two releases of ``game``."""
    store = DirectoryStore(str(place), create=True)
    store.write([publishing(None, "game")])
    store.write([publishing(store.read_heads()["game"], "game")])
    return store


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")


@contextlib.contextmanager
def somebody_else(uid: int = NOBODY, gid: int = NOBODY) -> Iterator[None]:
    """Be another user for a while: root's tests would be refused nothing."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


# -- what is no store ----------------------------------------------------------------------------------


def nothing(place: Path) -> None:
    """Leave the place empty."""


def a_file(place: Path) -> None:
    place.write_text("{}")


def a_directory_of_somebody(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "photo.jpg").write_bytes(b"1")


def an_empty_directory(place: Path) -> None:
    place.mkdir(mode=0o700)


def a_store_without_heads(place: Path) -> None:
    DirectoryStore(str(place), create=True).write([publishing(None, "game")])
    (place / "heads.json").unlink()


def a_place_without_parent(place: Path) -> None:
    place.parent.rename(f"{place.parent}-moved")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "publish"),
        (a_file, "name a directory"),
        (an_empty_directory, "correct the path"),
        (a_store_without_heads, "restore"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_who_reads_what_is_no_store_is_told(place: Path, make: Callable[[Path], None], words: str) -> None:
    make(place)
    before = contents(place)
    store = DirectoryStore(str(place))
    calls: list[Any] = [
        lambda: store.heads(),
        lambda: store.release("game", 1),
        lambda: store.history("game"),
        lambda: store.commit([publishing(None, "game")]),
        lambda: store.acknowledge([report()]),
        lambda: store.declare("game", "a", b"{}"),
        lambda: store.register("h:1", ["game"], 60),
        lambda: store.acknowledgements("game"),
        lambda: store.schemas("game"),
        lambda: store.addresses("game"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=words) as caught:
            await call()
        assert str(place) in str(caught.value)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_file, "name a directory"),
        (a_directory_of_somebody, "another directory"),
        (a_store_without_heads, "restore"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_store_is_not_made_of_what_is_something_else(place: Path, make: Callable[[Path], None], words: str) -> None:
    make(place)
    before = contents(place)
    with pytest.raises(StoreError, match=words):
        DirectoryStore(str(place), create=True).write([publishing(None, "game")])
    assert contents(place) == before


def test_a_store_is_made_where_its_parent_is(place: Path) -> None:
    missing = place / "deeper" / "store"
    with pytest.raises(StoreError, match="make that first"):
        DirectoryStore(str(missing), create=True).read_heads()
    assert not place.exists()
    assert DirectoryStore(str(place), create=True).read_heads() == {}
    assert DirectoryStore(str(place)).read_heads() == {}


def test_an_empty_directory_is_made_a_store_on_request(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "lost+found").mkdir()
    DirectoryStore(str(place), create=True).write([publishing(None, "game")])
    assert DirectoryStore(str(place)).read_heads()["game"].sequence == 1


# -- who may use it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("mode", [None, 0o700, 0o750, 0o755, 0o2770])
def test_what_is_in_a_store_has_the_permissions_of_its_directory(place: Path, mode: int | None, umask: int) -> None:
    if mode is not None:
        place.mkdir()
        place.chmod(mode)
    before = os.umask(umask)
    try:
        store = DirectoryStore(str(place), create=True)
        store.write([publishing(None, "game")])
    finally:
        os.umask(before)
    mode = 0o700 if mode is None else mode
    assert stat.S_IMODE(place.stat().st_mode) == mode
    paths = list(place.rglob("*"))
    assert {path.name for path in paths if path.is_file()} == {
        "0000000001.json",
        "heads.json",
        "ledger.sqlite",
        "lock",
    }
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (mode if path.is_dir() else mode & 0o666), path


def test_a_directory_that_everybody_may_write_is_no_store(store: DirectoryStore, place: Path) -> None:
    place.chmod(0o777)
    with pytest.raises(StoreError, match="chmod o-w"):
        store.read_heads()
    with pytest.raises(StoreError, match="chmod o-w"):
        store.write([publishing(None, "chat")])


@needs_root
def test_a_directory_of_a_stranger_is_trusted_only_if_his_group_is_ours(store: DirectoryStore, place: Path) -> None:
    os.chown(place, 4242, 4242)
    with pytest.raises(StoreError, match="uid 4242"):
        store.read_heads()
    os.chown(place, 4242, 0)
    assert set(store.read_heads()) == {"game"}


@needs_root
def test_who_may_read_and_not_write_reads_and_is_told_when_he_publishes(
    store: DirectoryStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = contents(place)
    head = store.read_heads()["game"]
    with somebody_else():
        assert store.read_heads()["game"] == head
        assert store._release("game", 2, None).release.version == 2
        assert len(store._history("game", 9, None)) == 2
        with pytest.raises(StoreError, match="owner, group and mode"):
            store.write([publishing(head, "game")])
        with pytest.raises(StoreError, match="owner, group and mode"):
            store._register("h:1", ["game"], 60)
        assert not store._note([report()])
        assert not store._declare("game", "a", b"{}")
    assert contents(place) == before


@needs_root
def test_who_may_not_enter_is_told(store: DirectoryStore, place: Path) -> None:
    with somebody_else(), pytest.raises(StoreError, match="owner, group and mode"):
        store.read_heads()


async def test_that_acknowledgements_cannot_be_kept_is_logged_once(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StoreDirectory, "prepare_ledger", lambda self: False)
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        for _ in range(3):
            await store.acknowledge([report()])
            await store.declare("game", "a", b"{}")
    assert [record.hotfd["event"] for record in caplog.records] == ["config-store-read-only"]  # type: ignore[attr-defined]


# -- one at a time -------------------------------------------------------------------------------------


def test_who_waits_for_the_lock_too_long_is_told_who_has_it(store: DirectoryStore, place: Path) -> None:
    impatient = DirectoryStore(str(place), lock_wait=0.05)
    told = pytest.raises(StoreError, match=f"process {os.getpid()} ")
    with StoreDirectory.open(str(place)) as directory, directory.locked(), told:
        impatient.write([publishing(None, "chat")])
    impatient.write([publishing(None, "chat")])


def test_a_commit_waits_for_another_one(store: DirectoryStore, place: Path) -> None:
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with StoreDirectory.open(str(place)) as directory, directory.locked():
            held.set()
            go.wait()

    def commit() -> None:
        store.write([publishing(None, "chat")])

    holder, waiter = threading.Thread(target=hold), threading.Thread(target=commit)
    holder.start()
    held.wait()
    waiter.start()
    time.sleep(0.02)
    assert "chat" not in store.read_heads()
    go.set()
    holder.join()
    waiter.join()
    assert "chat" in store.read_heads()


def test_a_lock_that_is_removed_while_somebody_waits_for_it_is_no_lock(
    store: DirectoryStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gets it must look whether it still is the one that all others see."""
    waited_for: set[int] = set()
    entered, flock = threading.Event(), fcntl.flock

    def noted(descriptor: int, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            waited_for.add(os.fstat(descriptor).st_ino)
            raise

    def wait() -> None:
        with StoreDirectory.open(str(place)) as directory, directory.locked(60):
            entered.set()

    monkeypatch.setattr(fcntl, "flock", noted)
    waiter = threading.Thread(target=wait)
    first, second = StoreDirectory.open(str(place)), StoreDirectory.open(str(place))
    with first, second, contextlib.ExitStack() as held:
        held.enter_context(first.locked())
        waiter.start()
        while not waited_for:
            time.sleep(0.001)
        (place / "lock").unlink()
        with second.locked():
            held.close()
            while len(waited_for) < 2 and not entered.is_set():
                time.sleep(0.001)
            assert not entered.is_set(), "two hold the lock"
    waiter.join()
    assert entered.is_set()


# -- damage --------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"{not json")


def too_large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(MAX_HEADS + 1)


def another_modules(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"game": {', b'"chat": {'))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


@pytest.mark.parametrize("damage", [garbage, too_large, another_modules, a_pipe, a_link], ids=lambda d: d.__name__)
def test_heads_that_are_damaged_are_not_used_and_not_replaced(
    store: DirectoryStore, place: Path, damage: Callable[[Path], None]
) -> None:
    step = publishing(store.read_heads()["game"], "game")
    damage(place / "heads.json")
    before = (place / "heads.json").lstat()
    with pytest.raises(StoreError, match=r"heads\.json.*(restore|remove)"):
        store.read_heads()
    with pytest.raises(StoreError, match=r"heads\.json.*(restore|remove)"):
        store.write([step])
    assert (place / "heads.json").lstat() == before


@pytest.mark.parametrize("digest", ["in the heads", "in the history", "given"])
def test_a_release_that_is_damaged_is_not_given(store: DirectoryStore, place: Path, digest: str) -> None:
    version = 2 if digest == "in the heads" else 1
    sha256 = store._release("game", version, None).sha256 if digest == "given" else None
    path = place / "releases" / "game" / f"000000000{version}.json"
    path.write_bytes(path.read_bytes().replace(b'"size":', b'"sise":'))
    with pytest.raises(StoreError, match=r"damaged.*restore"):
        store._release("game", version, sha256)


def test_a_release_in_the_place_of_another_is_not_given(store: DirectoryStore, place: Path) -> None:
    (place / "ledger.sqlite").unlink()
    releases = place / "releases" / "game"
    shutil.copy(releases / "0000000002.json", releases / "0000000001.json")
    with pytest.raises(StoreError, match="another"):
        store._release("game", 1, None)


def test_a_release_that_no_head_has_reached_is_not_there(store: DirectoryStore, place: Path) -> None:
    with StoreDirectory.open(str(place)) as directory:
        directory.write_release(sealed("game", 3))
    with pytest.raises(StoreError, match="no release 3"):
        store._release("game", 3, None)


# -- the ledger ----------------------------------------------------------------------------------------


def no_database(path: Path) -> None:
    path.write_bytes(b"x" * 8192)


def other_tables(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE photos (name)")
        database.execute("PRAGMA user_version = 1")


def broken_rows(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE events SET data = x'00'")


def torn_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [no_database, other_tables, broken_rows, torn_pages], ids=lambda d: d.__name__)
async def test_neither_readers_nor_publishers_need_the_ledger_and_they_are_told_what_to_do(
    store: DirectoryStore, place: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    heads = store.read_heads()
    step = publishing(heads["game"], "game")
    damage(place / "ledger.sqlite")
    assert await store.heads() == heads
    assert (await store.release("game", 1)).release.version == 1
    with pytest.raises(StoreError, match=r"ledger\.sqlite.*move it away"):
        await store.history("game")
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        await store.commit([step])
    told = [record.hotfd for record in caplog.records if record.hotfd["event"] == "config-history-waits"]  # type: ignore[attr-defined]
    assert len(told) == 1
    assert "move it away" in str(told[0]["reason"])
    assert await store.heads() == {"game": step.head}
    with pytest.raises(StoreError, match=r"ledger\.sqlite.*move it away"):
        await store.history("game")

    (place / "ledger.sqlite").rename(place / "ledger.damaged")
    assert [event.sequence for event in await store.history("game")] == [3]
    following = publishing(step.head, "game")
    await store.commit([following])
    assert await store.history("game") == [following.event, step.event]
    assert not (place / "waiting.json").exists()


def test_a_ledger_that_is_a_link_is_not_followed(store: DirectoryStore, place: Path) -> None:
    ledger, elsewhere = place / "ledger.sqlite", place.parent / "mine.sqlite"
    ledger.rename(elsewhere)
    before = elsewhere.read_bytes()
    ledger.symlink_to(elsewhere)
    step = publishing(None, "chat")
    store.write([step])
    assert elsewhere.read_bytes() == before
    with pytest.raises(StoreError, match="no regular file; move it away"):
        store._note([report()])
    ledger.unlink()
    assert store._history("chat", 9, None) == [step.event]


def test_a_ledger_of_a_newer_hotfd_is_left_alone(store: DirectoryStore, place: Path) -> None:
    with contextlib.closing(sqlite3.connect(place / "ledger.sqlite")) as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="newer hotfd"):
        store.write([publishing(None, "chat")])
    assert "chat" not in store.read_heads()


@contextlib.contextmanager
def held(path: Path, patience: float = 0.05) -> Iterator[None]:
    """Hold the ledger, as a process does that was stopped while it wrote; servers wait so many seconds for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hotfd.config.directory_ledger.BUSY", 0.05)
        patch.setattr("hotfd.config.directory_ledger.PATIENCE", patience)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield


def test_publishing_goes_on_while_the_ledger_is_held_and_the_history_has_no_hole(
    store: DirectoryStore, place: Path
) -> None:
    steps = [publishing(store.read_heads()["game"], "game")]
    with held(place / "ledger.sqlite"):
        store.write(steps)
        steps.append(publishing(steps[-1].head, "game", For(("eu",), 0.5)))
        store.write([steps[-1], publishing(None, "chat")])
        steps.append(rollout.abort(steps[-1].head, by="bob", reason="slow"))
        store.write(steps[-1:])
        with pytest.raises(StoreError, match="another process has held it for long"):
            store._history("game", 9, None)
        assert store._release("game", steps[0].head.last, None).release.version == 3
    assert [event.sequence for event in store._history("game", 9, None)] == [5, 4, 3, 2, 1]
    assert store._history("game", 3, None) == [step.event for step in reversed(steps)]
    assert store._history("game", 2, 4) == [steps[0].event, store._history("game", 1, 3)[0]]
    assert [event.sequence for event in store._history("chat", 9, None)] == [1]

    steps.append(publishing(steps[-1].head, "game"))
    store.write(steps[-1:])
    assert not (place / "waiting.json").exists()
    assert Ledger(str(place / "ledger.sqlite")).events("game", 100, 4) == [step.event for step in reversed(steps)]


async def test_a_canary_is_halted_while_the_ledger_is_held(store: DirectoryStore, place: Path) -> None:
    head = await publish(store, "game", For(share=0.5))
    assert head.canary is not None
    with held(place / "ledger.sqlite"), pytest.raises(StoreError, match="held it for long"):
        await note(store, [report(state="refused", version=head.canary.version, faults=("size is 0",))])
    halted = (await store.heads())["game"]
    assert (halted.change, halted.canary, halted.reason) == ("halted", None, "refused: size is 0")
    assert [event.change for event in await store.history("game", limit=2)] == ["halted", "canary"]


def test_a_disk_that_hangs_takes_some_threads_and_keeps_no_process_from_its_end(place: Path) -> None:
    program = """if True:
        import asyncio, sys, threading
        from hotfd.config import directory
        from hotfd.config.store import Acknowledgement

        directory.DirectoryStore._note = lambda self, reports: threading.Event().wait()

        async def main():
            store = directory.DirectoryStore(sys.argv[1], create=True)
            await store.heads()
            while threading.active_count() > 1:
                await asyncio.sleep(0.01)
            tries = [asyncio.ensure_future(store.acknowledge([])) for _ in range(100)]
            await asyncio.wait(tries, timeout=0.05)
            print(threading.active_count() - 1)
            assert await asyncio.to_thread(lambda: True), "others have their threads"

        asyncio.run(main())
    """
    command = [sys.executable, "-c", program, str(place)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, f"{THREADS}\n"), result.stderr


def test_servers_wait_longer_for_the_ledger_than_who_publishes(store: DirectoryStore, place: Path) -> None:
    told = report()
    with held(place / "ledger.sqlite", patience=60.0):
        reporting = threading.Thread(target=store._note, args=([told],))
        reporting.start()
        store.write([publishing(None, "chat")])
        assert reporting.is_alive()
    reporting.join()
    assert store._read(Ledger.reports, "game") == [told]


def test_an_event_that_waits_and_that_no_head_has_reached_does_not_count(store: DirectoryStore, place: Path) -> None:
    head = store.read_heads()["game"]
    lost, step = publishing(head, "game", who="lost"), publishing(head, "game", who="next")
    (place / "waiting.json").write_bytes(msgspec.json.encode([lost.event]))
    assert [event.sequence for event in store._history("game", 9, None)] == [2, 1]
    with held(place / "ledger.sqlite"):
        store.write([step])
    assert store._history("game", 1, None) == [step.event]
    store.write([publishing(None, "chat")])
    assert store._history("game", 1, None) == [step.event]


def test_an_event_that_waits_since_another_life_of_the_store_is_not_taken(store: DirectoryStore, place: Path) -> None:
    (true,) = store._history("game", 1, None)
    first = Ledger(str(place / "ledger.sqlite")).events("game", 2, 1)
    (place / "waiting.json").write_bytes(msgspec.json.encode([msgspec.structs.replace(true, time=1.0, by="eve")]))
    assert store._history("game", 9, None) == [true, *first]
    store.write([publishing(None, "chat")])
    assert Ledger(str(place / "ledger.sqlite")).events("game", 100, 9) == [true, *first]


def test_no_more_changes_wait_than_can_be_kept(
    store: DirectoryStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfd.config.directory_history.MAX_WAITING", 600)
    with held(place / "ledger.sqlite"):
        first = publishing(None, "chat")
        store.write([first])
        heads = store.read_heads()
        with pytest.raises(StoreError, match=r"ledger\.sqlite could not be written for so long"):
            store.write([rollout.publish(first.head, sealed("chat", 2), by="x" * 500)])
        assert store.read_heads() == heads
    store.write([publishing(first.head, "chat")])
    assert [event.sequence for event in store._history("chat", 9, None)] == [2, 1]


def test_events_that_wait_and_are_damaged_are_told_with_what_to_do(store: DirectoryStore, place: Path) -> None:
    (place / "waiting.json").write_bytes(b"[{")
    with pytest.raises(StoreError, match=r"waiting\.json is damaged.*move it away"):
        store.write([publishing(None, "chat")])
    with pytest.raises(StoreError, match=r"waiting\.json is damaged.*move it away"):
        store._history("game", 9, None)
    assert store._release("game", 1, None).release.version == 1


def test_who_holds_the_ledger_is_told(store: DirectoryStore, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotfd.config.directory_ledger.BUSY", 0.05)
    program = (
        "import sqlite3, sys; database = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "database.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(place / "ledger.sqlite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {process.pid} has held it for long"):
            store._history("game", 9, None)


def test_a_damaged_release_of_one_module_keeps_nobody_from_publishing_others(
    store: DirectoryStore, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "ledger.sqlite").unlink()
    (place / "releases" / "game" / "0000000002.json").write_bytes(b"{}")
    step = publishing(store.read_heads()["game"], "game")
    with caplog.at_level(logging.WARNING, logger="hotfd"):
        store.write([publishing(None, "chat")])
    assert [record.hotfd["event"] for record in caplog.records] == ["config-history-lost"]  # type: ignore[attr-defined]
    store.write([step])
    assert store._history("game", 9, None) == [step.event]


def all_kinds() -> list[Step]:
    """Return steps of one module with every kind of change."""
    steps = [publishing(None, "game")]
    steps.append(publishing(steps[-1].head, "game", For(("eu",), 0.5)))
    steps.append(rollout.abort(steps[-1].head, by="bob", reason="slow"))
    steps.append(publishing(steps[-1].head, "game", For(share=0.5)))
    halted = rollout.halt(steps[-1].head, 3, by="s1", reason="refused: size is 0")
    assert halted is not None
    steps.append(halted)
    steps.append(publishing(steps[-1].head, "game", For(share=0.5)))
    steps.append(rollout.promote(steps[-1].head, by="bob"))
    steps.append(rollout.publish(steps[-1].head, sealed("game", 5), by="bob", change="rolled-back", reason="slow"))
    steps.append(publishing(steps[-1].head, "game"))
    return steps


@pytest.mark.parametrize("how", ["lost", "older", "of another life"])
def test_the_last_change_is_in_the_history_whatever_has_happened_to_the_ledger(place: Path, how: str) -> None:
    steps = all_kinds()
    store = DirectoryStore(str(place), create=True)
    ledger, older = place / "ledger.sqlite", place / "older.sqlite"
    for number, step in enumerate(steps):
        if ledger.exists():
            shutil.copy(ledger, older)
        store.write([step])
        if how == "lost":
            ledger.unlink()
        elif how == "older" and older.exists():
            older.replace(ledger)
        elif how == "of another life":
            lost = (
                rollout.publish(steps[number - 1].head if number else None, sealed("game", step.head.last + 1), by="?")
                if number and step.release is None
                else None
            )
            if lost is not None:
                Ledger(str(ledger)).append([lost.event])
        assert store._history("game", 50, None)[0] == step.event, step.event.change
        expected = 1 if how == "lost" else number + 1
        assert len(store._history("game", 50, None)) == expected
        with StoreDirectory.open(str(place)) as directory, directory.locked():
            assert directory.prepare_ledger()
        # The next commit of any module writes down what was lost.
        other = f"other-{number}"
        store.write([publishing(None, other)])
        assert Ledger(str(ledger)).events("game", 100, 1) == [step.event]


def test_an_event_that_no_head_has_reached_does_not_count(store: DirectoryStore, place: Path) -> None:
    head = store.read_heads()["game"]
    lost = publishing(head, "game", who="lost")
    Ledger(str(place / "ledger.sqlite")).append([lost.event])
    assert [event.sequence for event in store._history("game", 9, None)] == [2, 1]
    assert [event.sequence for event in store._history("game", 9, 50)] == [2, 1]
    step = publishing(head, "game", who="next")
    store.write([step])
    assert store._history("game", 1, None) == [step.event]


async def test_a_report_that_is_too_large_is_refused(store: DirectoryStore) -> None:
    faults = ("x" * 1000,) * (MAX_REPORT // 1000 + 1)
    with pytest.raises(ConfigError, match="bytes"):
        await store.acknowledge([report(faults=faults)])
    assert await store.acknowledgements("game") == []


async def test_only_so_many_reports_and_schemas_are_kept(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfd.config.directory_ledger.MAX_ROWS", 3)
    now = time.time()
    await store.acknowledge([report(server=f"s{number}", time=now - 10 + number) for number in range(6)])
    assert [each.server for each in await store.acknowledgements("game")] == ["s3", "s4", "s5"]
    for number in range(6):
        await store.declare("game", f"a{number}", b"{}")
    assert set(await store.schemas("game")) == {"a3", "a4", "a5"}


async def test_a_server_whose_clock_was_ahead_can_still_report(store: DirectoryStore) -> None:
    await store.acknowledge([report(version=1, time=time.time() + 7200)])
    newer = report(version=2)
    await store.acknowledge([newer])
    assert await store.acknowledgements("game") == [newer]


async def test_a_path_with_strange_characters_is_a_path(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "a b?mode=memory#%41"), create=True)
    await publish(store, "game")
    assert len(await store.history("game")) == 1
    assert (tmp_path / "a b?mode=memory#%41" / "ledger.sqlite").stat().st_size > 0
