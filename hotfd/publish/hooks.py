"""What the hooks of a repository do: check what comes in, and have it published when it is in.

The two hooks of a commit hold who commits for :data:`LIMIT` seconds together, at most. What cannot be checked by then, since the store does not
answer, passes with a word about it: publishing checks it again. What is to be published is put into the spool, and a
worker that outlives the hook takes it from there.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from hotfd.config.open import open_store
from hotfd.errors import ConfigError, StoreError
from hotfd.publish.faults import RevisionRefused, short
from hotfd.publish.git import Git, GitIndex
from hotfd.publish.install import command
from hotfd.publish.programs import Deadline, TooLate
from hotfd.publish.rehearsal import Rehearsal
from hotfd.publish.session import Order, publisher, who
from hotfd.publish.spool import Spool, directory_of
from hotfd.publish.svn import SvnTransaction
from hotfd.publish.worker import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from hotfd.config.store import Store
    from hotfd.publish.install import Settings
    from hotfd.publish.repository import Repository

LIMIT: Final = 2.0
"""Seconds that the hooks of one commit may hold who commits, from the start of their processes."""

CHECK_SHARE: Final = 0.65
"""Of them: what the hook before the commit may take; the one after it has what that one has left."""

RESERVE: Final = 0.15
"""Seconds that each keeps for its end."""

LEAST: Final = 0.3
"""Seconds that a hook has in any case, on a machine where Python alone takes as long as it may."""

STORE_SHARE: Final = 0.4
"""Of the time: what the store has to give a first answer; without one, what can be checked without it is checked."""

SCRIPT_SHARE: Final = 0.7
"""Of the time: what scripts have, so that one which does not end is refused, and not let through with the rest."""

MAX_LINE: Final = 1 << 16
"""Bytes of a line by which git tells a hook of a branch: longer ones are no names that git takes."""

ACCEPT: Final = "hotfd-rewritten"
"""The push option by which a person accepts that history is rewritten."""


class Hook:
    """One run of a hook.

    Args:
        settings: as they were when the hooks were installed.
        say: takes lines for the committer.
        limit: seconds that it and the other hook of the same commit may hold who commits.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None], limit: float = LIMIT) -> None:
        self._settings = settings
        self._say = say
        self._whole = limit
        self._set(CHECK_SHARE * limit)

    def _set(self, limit: float) -> None:
        """Begin to count, for a hook that may take so many seconds."""
        self._limit = max(LEAST, limit - RESERVE - age())
        self._deadline = Deadline(self._limit)
        self._scripts = Deadline(SCRIPT_SHARE * self._limit)

    def run(self, what: str, arguments: list[str]) -> int:
        """Do what one hook does.

        Args:
            what: the hook's name, such as ``git-pre-receive``.
            arguments: what the hook was given.

        Returns:
            its exit status.
        """
        if "-pre-" not in what:
            return self._run(what, arguments)
        try:
            status = self._run(what, arguments)
        except TooLate as error:
            self._say(f"not everything could be checked in time ({error}); it is checked again when it is published")
            status = 0
        if status == 0:
            with suppress(OSError, ConfigError):  # then the other hook takes it that this one has taken all that it may
                self._spool().hold(age())
        return status

    def _run(self, what: str, arguments: list[str]) -> int:
        match what, arguments:
            case "git-pre-receive", _:
                return self._pre_receive()
            case "git-pre-commit", _:
                return self._pre_commit()
            case "svn-pre-commit", [_, transaction]:
                settings = self._settings
                return self._checked(
                    lambda: SvnTransaction(settings.repository, settings.path, self._deadline, transaction)
                )
            case "git-post-receive", _:
                pushed = self._pushed()
                return self._after(lambda: pushed is not None and not _is_none(pushed[1]))
            case "git-post-commit", _:
                return self._after(self._is_on_branch)
            case "svn-post-commit", _:
                return self._after(lambda: True)
        raise ConfigError(f"there is no hook {what} with {len(arguments)} arguments")

    # Before

    def _pre_receive(self) -> int:
        pushed = self._pushed()
        if pushed is None:
            return 0
        old, new = pushed
        settings = self._settings
        if _is_none(new):
            self._say(f"branch {settings.branch} is removed; what was published from it stays in force")
            return 0
        accepted = _accepted()
        # Before the store is asked: a store that does not answer lets no forced push pass.
        git = Git(settings.repository, settings.path, self._deadline)
        rewritten = not accepted and not _is_none(old) and git.relation(old, new) not in {"older", "same"}
        status = self._checked(lambda: git, new, accepted=accepted)
        if status or not rewritten:
            return status
        self._say(
            f"branch {settings.branch} was rewritten: {short(old)} is no ancestor of {short(new)}; to accept it, push with "
            f"--push-option={ACCEPT}"
        )
        return 1

    def _pushed(self) -> tuple[str, str] | None:
        """Return the old and the new commit of the branch, as git tells on standard input, or None."""
        wanted, found = f"refs/heads/{self._settings.branch}", None
        # All of them: there is one for each branch and tag that is pushed.
        while line := sys.stdin.buffer.readline(MAX_LINE):
            words = line.decode(errors="surrogateescape").removesuffix("\n").split(" ", 2)
            if len(words) == 3 and words[2] == wanted:
                found = words[0], words[1]
        return found

    def _is_on_branch(self) -> bool:
        git = Git(_working(), "", self._deadline)
        status, name = git.git("symbolic-ref", "--quiet", "HEAD", statuses=(0, 1))
        return status == 0 and name.decode().strip() == f"refs/heads/{self._settings.branch}"

    def _pre_commit(self) -> int:
        settings = self._settings
        if not self._is_on_branch():
            return 0
        return self._checked(lambda: GitIndex(_working(), settings.path, self._deadline))

    def _checked(self, opened: Callable[[], Repository], rev: str | None = None, *, accepted: bool = False) -> int:
        """Check what is to be committed; return the hook's exit status."""
        settings = self._settings
        order = Order(settings.repository, settings.path, rev, allow_scripts=settings.allow_scripts, rewritten=accepted)
        try:
            # Not asyncio.run: at its end it waits for threads, which may wait for a store much longer than this may.
            asyncio.new_event_loop().run_until_complete(self._check(order, opened()))
        except (TimeoutError, TooLate):
            self._say("not everything could be checked in time; it is checked again when it is published")
        except RevisionRefused as refusal:
            self._say("refused; nothing was changed:")
            for line in refusal.lines():
                self._say(f"  {line}")
            return 1
        except ConfigError as error:
            pushed = rev is not None and "--rewritten" in str(error)
            hint = f" (or push with --push-option={ACCEPT})" if pushed else ""
            self._say(f"refused; nothing was changed: {error}{hint}")
            return 1
        return 0

    async def _check(self, order: Order, repository: Repository) -> None:
        store = await self._store()
        if store is not None:
            try:
                await self._rehearse(order, repository, Rehearsal(store), blind=False)
                return
            except StoreError as error:
                self._say(f"the store failed while this was checked: {error}")
            finally:
                await store.aclose()
        self._say("checked as far as that is possible without the store; the rest is checked when it is published")
        await self._rehearse(order, repository, Rehearsal(), blind=True)

    async def _rehearse(self, order: Order, repository: Repository, store: Rehearsal, *, blind: bool) -> None:
        trial = publisher(order, repository, store, self._say, scripts=self._scripts, blind=blind)
        await asyncio.wait_for(trial.publish(order.rev), self._deadline.left(self._limit))

    async def _store(self) -> Store | None:
        """Return the store if it answers, and says so otherwise."""
        try:
            store = open_store(self._settings.store, create=True)
        except ConfigError as error:
            self._say(str(error))
            return None
        try:
            await asyncio.wait_for(store.heads(), self._deadline.left(STORE_SHARE * self._limit))
        except (StoreError, TimeoutError, OSError) as error:
            self._say(f"the store cannot be asked now: {str(error) or 'it does not answer'}")
            await store.aclose()
            return None
        return store

    # After

    def _after(self, concerned: Callable[[], bool]) -> int:
        """Announce a commit if it is one that this hook is for, within the time that the hook before it has left."""
        held = None
        with suppress(OSError):  # who cannot read the spool cannot write it either, and is told so
            held = self._spool().held()
        self._set(self._whole * (1 - CHECK_SHARE) if held is None else self._whole - held)
        try:
            if not concerned():
                return 0
        except TooLate:
            pass  # what is not known to be on another branch must not be left unpublished
        return self._announce()

    def _announce(self) -> int:
        """Have published what was committed, and say what becomes of it if that is known in time."""
        settings = self._settings
        try:
            spool = self._spool()
            before = spool.refused()
            spool.add(rewritten=_accepted(), by=who())
        except OSError as error:
            self._say(f"committed, and not published: the spool cannot be written: {error}")
            return 1
        if before:
            self._say("what was committed before was refused:")
            for line in before.splitlines():
                self._say(f"  {line}")
        try:
            outcome = self._watch(start_worker(settings, spool))
        except TooLate:
            self._say(f"committed; it is being published, and {spool.path('log')} says what becomes of it")
            return self._status(False)
        except OSError as error:
            self._say(
                f"committed; nothing can be started here that publishes it ({error.strerror}): it is kept in {spool.directory}, "
                "and published with the next commit"
            )
            return 1
        for line in outcome.lines:
            self._say(line)
        if outcome.state == "waiting":
            self._say("it is kept in hotfd-spool until it can be published")
        return self._status(outcome.state == "published" and not before)

    def _spool(self) -> Spool:
        return Spool(directory_of(self._settings.kind, self._settings.repository))

    def _status(self, good: bool) -> int:
        # svn shows what a hook says only if its status is not 0; a commit stands whatever a hook after it says.
        return 0 if good or self._settings.kind == "git" else 1

    def _watch(self, report: int) -> Outcome:
        """Return what the worker reports.

        Raises:
            TooLate: it has not by the deadline.
            ConfigError: it has ended without a word.
        """
        data = b""
        try:
            while select.select([report], [], [], self._deadline.left(self._limit))[0]:
                chunk = os.read(report, 1 << 16)
                if chunk:
                    data += chunk
                    continue
                try:
                    return msgspec.json.decode(data, type=Outcome)
                except msgspec.MsgspecError:
                    raise ConfigError(
                        "committed, and not published: the process that publishes has ended; its log in hotfd-spool says why"
                    ) from None
        finally:
            os.close(report)
        raise TooLate


def start_worker(settings: Settings, spool: Spool) -> int:
    """Start a worker that outlives this process, and return the descriptor that its first outcome comes from.

    It has a session of its own, and none of the standard streams: git waits until nobody has those open any more.
    """
    log = spool.open_log()
    try:
        report, end = os.pipe2(os.O_CLOEXEC)
    except OSError:
        os.close(log)
        raise
    try:
        # What git tells its hooks holds for this commit only.
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        subprocess.Popen(
            [*command(settings, "work"), str(end)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(end,),
            start_new_session=True,
            cwd="/",
            env=env,
        )
    except OSError:
        os.close(report)
        raise
    finally:
        os.close(end)
        os.close(log)
    return report


def age() -> float:
    """Return how many seconds this process is old, from its start time in /proc (proc_pid_stat(5))."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _working() -> str:
    """Return where a hook of a working repository runs: one repository can have several working trees (githooks(5))."""
    return os.environ.get("GIT_DIR") or os.getcwd()


def _is_none(revision: str) -> bool:
    """Return whether git means no commit: before a branch is made, and after it was removed, githooks(5)."""
    return revision.strip("0") == ""


def _accepted() -> bool:
    """Return whether the push has the option that accepts a rewritten history (githooks(5))."""
    count = os.environ.get("GIT_PUSH_OPTION_COUNT", "0")
    options = range(min(int(count), 100)) if count.isdecimal() else range(0)
    return any(os.environ.get(f"GIT_PUSH_OPTION_{number}") == ACCEPT for number in options)
