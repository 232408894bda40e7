"""The token file, the verdict on a token, and where a console may listen."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hotfd.console import TokenFile, TokenUnusable, canonical
from hotfd.console.login import FIRST_DELAY, FORGIVEN_AFTER, MAX_DELAY, Login
from hotfd.console.token import default_path

TOKEN = "correct-horse-battery"


@pytest.fixture
def token(tmp_path: Path) -> TokenFile:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN + "\n")
    return TokenFile(str(path))


def test_a_missing_token_is_made_for_its_owner_alone_with_its_directory(tmp_path: Path) -> None:
    file = TokenFile(str(tmp_path / "new" / "token"))
    assert file.make()
    first = file.read()
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700
    assert len(first) >= 32
    assert os.listdir(tmp_path / "new") == ["token"]
    assert not file.make(), "one that is there stays"
    assert file.read() == first


def test_of_many_that_make_it_at_once_one_does_and_all_read_the_same(tmp_path: Path) -> None:
    file, made, read = TokenFile(str(tmp_path / "token")), [], []
    together = threading.Barrier(8)

    def start() -> None:
        together.wait()
        made.append(file.make())
        read.append(file.read())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 1
    assert len(set(read)) == 1
    assert os.listdir(tmp_path) == ["token"]


def test_a_token_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenUnusable, match="control_token="):
        TokenFile(str(tmp_path / "file" / "token")).make()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_token_that_others_may_touch_is_refused(token: TokenFile, mode: int) -> None:
    os.chmod(token.path, mode)
    with pytest.raises(TokenUnusable, match="chmod 600"):
        token.read()


def test_a_token_of_another_user_is_refused(token: TokenFile) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    os.chown(token.path, 65534, 65534)
    with pytest.raises(TokenUnusable, match="belongs to uid 65534"):
        token.read()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "x" * 600,
        "two\nlines-of-a-good-length",
        "ä" * 20,
        "which-nobody\x1bcan-type",
        "with-a\ttabulator-in-it",
    ],
)
def test_what_is_no_token_is_refused_and_not_told(token: TokenFile, text: str) -> None:
    Path(token.path).write_text(text)
    with pytest.raises(TokenUnusable) as refused:
        token.read()
    assert not text or text not in str(refused.value)


def test_a_pipe_a_directory_a_link_and_nothing_are_refused_at_once(tmp_path: Path, token: TokenFile) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    os.mkdir(tmp_path / "directory", 0o700)
    os.symlink(token.path, tmp_path / "link")
    problems = {
        "pipe": "no regular file",
        "directory": "no regular file",
        "link": "symbolic link",
        "nothing": "No such file",
    }
    for name, problem in problems.items():
        with pytest.raises(TokenUnusable, match=problem):
            TokenFile(str(tmp_path / name)).read()


def test_no_descriptor_is_left_open_by_a_token_that_is_refused(token: TokenFile) -> None:
    before = os.listdir("/proc/self/fd")
    os.chmod(token.path, 0o644)
    for file in (token, TokenFile(os.path.dirname(token.path))):
        with pytest.raises(TokenUnusable):
            file.read()
    assert os.listdir("/proc/self/fd") == before


def test_where_the_token_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert default_path() == "/config/hotfd/token"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == "/etc/hotfd/token"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_path() == "/home/ada/.config/hotfd/token"


# -- verdicts -------------------------------------------------------------------------------------------


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when everybody sleeps, and not before."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def timed(main: Callable[[Clock], Awaitable[object]]) -> None:
    loop = Clock()
    try:
        loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_each_wrong_token_makes_the_next_verdict_wait_longer_up_to_a_limit(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login, waits = Login(token), []
        for _ in range(8):
            before = loop.now
            assert not await login.check("wrong")
            waits.append(loop.now - before)
        assert waits[:3] == pytest.approx([0, FIRST_DELAY, 2 * FIRST_DELAY], abs=1e-3)
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(MAX_DELAY, abs=1e-3)
        assert await login.check(TOKEN)
        assert login.delay(loop.now) == 0, "who knows the token ends it"

    timed(main)


def test_the_right_token_waits_as_long_as_a_wrong_one(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login = Login(token)
        for _ in range(4):
            await login.check("wrong")
        before = loop.now
        assert await login.check(TOKEN)
        assert loop.now - before == pytest.approx(8 * FIRST_DELAY, abs=1e-3)

    timed(main)


def test_guessing_in_parallel_is_no_faster(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login = Login(token)
        assert not any(await asyncio.gather(*(login.check(f"guess {number}") for number in range(20))))
        assert loop.now >= 15 * MAX_DELAY

    timed(main)


def test_a_guesser_who_does_not_wait_learns_nothing_and_holds_nobody_up(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login = Login(token)
        for _ in range(3):
            await login.check("wrong")
        guesses = [asyncio.ensure_future(login.check(f"guess {number}")) for number in range(50)]
        await asyncio.sleep(0)
        for guess in guesses:
            guess.cancel()
        before = loop.now
        assert await login.check(TOKEN)
        assert loop.now - before <= MAX_DELAY

    timed(main)


def test_wrong_tokens_are_forgiven_after_a_while(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login = Login(token)
        for _ in range(5):
            await login.check("wrong")
        assert login.delay(loop.now + FORGIVEN_AFTER - 1) > 0
        assert login.delay(loop.now + FORGIVEN_AFTER) == 0

    timed(main)


def test_a_token_that_is_changed_counts_at_once(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        login = Login(token)
        assert await login.check(TOKEN)
        Path(token.path).write_text("another-token-altogether")
        assert not await login.check(TOKEN)
        assert await login.check("another-token-altogether")
        os.unlink(token.path)
        with pytest.raises(TokenUnusable):
            await login.check("another-token-altogether")

    timed(main)


def test_text_that_is_no_ascii_is_only_wrong(token: TokenFile) -> None:
    async def main(loop: Clock) -> None:
        assert not await Login(token).check("\ufffdä" * 10)

    timed(main)


# -- addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("127.0.0.1:2323", "127.0.0.1:2323"),
        ("127.1.2.3:0", "127.1.2.3:0"),
        ("[::1]:2323", "[::1]:2323"),
        ("localhost:2323", "127.0.0.1:2323"),
    ],
)
def test_loopback_is_where_a_console_listens(spec: str, address: str) -> None:
    assert canonical(spec, exposed=False) == address


@pytest.mark.parametrize("spec", ["0.0.0.0:2323", "[::]:2323", "192.0.2.1:2323"])
def test_anything_else_needs_to_be_said_in_words(spec: str) -> None:
    with pytest.raises(ValueError, match="control_exposed=True"):
        canonical(spec, exposed=False)
    assert canonical(spec, exposed=True) == spec


@pytest.mark.parametrize("spec", ["", "2323", ":2323", "127.0.0.1:", "127.0.0.1:99999", "::1:2323", "unix:/tmp/x"])
def test_what_is_no_address_is_refused(spec: str) -> None:
    with pytest.raises(ValueError):
        canonical(spec, exposed=True)
