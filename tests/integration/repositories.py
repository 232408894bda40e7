"""Real repositories to commit settings to: git ones, bare with somebody's clone or working, and Subversion ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from click.testing import CliRunner

from hotfd.cli import main
from hotfd.config.open import open_store
from tests.integration.harness import PATIENCE

if TYPE_CHECKING:
    from hotfd.config.store import Store

T = TypeVar("T")

CONFIG = [sys.executable, "-m", "hotfd.cli", "config"]

needs_svn = pytest.mark.skipif(
    shutil.which("svn") is None or shutil.which("svnadmin") is None, reason="svn is not installed (Debian: subversion)"
)

KEEP = 'operation = "keep"\n[set]\n'
"""The beginning of an instruction that changes single items."""


@dataclass
class Done:
    """What a command has said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All of it: svn prints what a hook after the commit says as a part of its own output."""
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*command: str | Path, cwd: str | Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(os.environ) | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def good(*command: str | Path, cwd: str | Path | None = None) -> str:
    """Run a command that must succeed, and return what it says."""
    done = run(*command, cwd=cwd)
    assert done.status == 0, f"{command}: {done.out}{done.err}"
    return done.out


def config(*arguments: str | Path) -> Done:
    """Run ``hotfd config``."""
    return run(*CONFIG, *arguments)


def publish(where: str | Path, store: Path, *options: str | Path) -> Done:
    """Run ``hotfd config publish --json`` within this process, which is quicker, and shows what it leaves open."""
    return inside("publish", where, "--store", f"dir:{store}", "--json", *options)


def inside(*arguments: str | Path) -> Done:
    """Run ``hotfd config`` within this process."""
    done = CliRunner().invoke(main, ["config", *(str(word) for word in arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def write(directory: Path, files: Mapping[str, str | bytes | None]) -> None:
    """Write files; None removes one."""
    for name, data in files.items():
        path = directory / name
        if data is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        path.chmod(0o755 if path.name == "instruction" else 0o644)


class Git:
    """A git repository, and where somebody works: a clone that pushes to it, or the repository itself.

    Args:
        directory: where both are made.
        bare: whether it is bare, and there is a clone.
    """

    kind = "git"

    def __init__(self, directory: Path, *, bare: bool = True) -> None:
        self.bare = bare
        self.where = directory / ("config.git" if bare else "config")
        self.files = directory / "clone" if bare else self.where
        good("git", "init", "-q", "-b", "main", *(["--bare"] if bare else []), self.where)
        if bare:
            good("git", "clone", "-q", self.where, self.files)
        for name, value in (("user.name", "Ann"), ("user.email", "ann@example.org"), ("core.fsync", "none")):
            self.git("config", name, value)
        self.spool = self.where / "hotfd-spool" if bare else self.where / ".git" / "hotfd-spool"

    def git(self, *arguments: str) -> str:
        return good("git", "-C", self.files, *arguments).strip()

    def try_commit(self, files: Mapping[str, str | bytes | None], note: str = "settings", *push: str) -> Done:
        """Commit files, and push them where that is how they get there; return what the last step said."""
        write(self.files, files)
        self.git("add", "-A")
        done = run("git", "-C", self.files, "commit", "-q", "-m", note)
        return self.push(*push) if self.bare else done

    def push(self, *options: str) -> Done:
        return run("git", "-C", self.files, "push", *options, "origin", "HEAD:main")

    def commit(self, files: Mapping[str, str | bytes | None], note: str = "settings") -> str:
        """Commit files; return the revision."""
        done = self.try_commit(files, note)
        assert done.status == 0, done.err
        return self.git("rev-parse", "HEAD")

    def forget_last(self) -> None:
        """Undo the last commit where somebody works, after a push was refused."""
        self.git("reset", "-q", "--hard", "HEAD^")

    def newest(self) -> str:
        """Return the newest revision that the repository has."""
        return run(
            "git", "--git-dir", self.where if self.bare else self.where / ".git", "rev-parse", "main"
        ).out.strip()


class Svn:
    """A Subversion repository, and where somebody has checked it out."""

    kind = "svn"

    def __init__(self, directory: Path) -> None:
        self.where = directory / "config.svn"
        self.files = directory / "checkout"
        self.spool = self.where / "hotfd-spool"
        good("svnadmin", "create", self.where)
        good("svn", "checkout", "-q", f"file://{self.where}", self.files)

    def try_commit(self, files: Mapping[str, str | bytes | None], note: str = "settings") -> Done:
        """Commit files; return what was said."""
        write(self.files, {name: data for name, data in files.items() if data is not None})
        for name, data in files.items():
            if data is None:
                good("svn", "remove", "-q", self.files / name)
        good("svn", "add", "-q", "--force", "--auto-props", ".", cwd=self.files)
        for path in self.files.glob("**/instruction"):
            good("svn", "propset", "-q", "svn:executable", "on", path)
        return run("svn", "commit", "--username", "ann", "-m", note, cwd=self.files)

    def commit(self, files: Mapping[str, str | bytes | None], note: str = "settings") -> str:
        """Commit files; return the revision."""
        done = self.try_commit(files, note)
        assert done.status == 0, done.err
        good("svn", "update", "-q", cwd=self.files)
        return self.newest()

    def newest(self) -> str:
        """Return the newest revision that the repository has."""
        return "r" + good("svnlook", "youngest", self.where).strip()


def asked(store: Path, ask: Callable[[Store], Awaitable[T]]) -> T:
    """Ask a directory store something."""

    async def whole() -> T:
        opened = open_store(f"dir:{store}", create=True)
        try:
            return await ask(opened)
        finally:
            await opened.aclose()

    return asyncio.run(whole())


def in_force(store: Path, module: str = "match") -> tuple[int, dict[str, Any]] | None:
    """Return the version and the values of what is in force for all in a directory store; None for nothing."""

    async def ask(opened: Store) -> tuple[int, dict[str, Any]] | None:
        head = (await opened.heads([module])).get(module)
        if head is None or head.stable is None:
            return None
        return head.stable.version, (await opened.release(module, head.stable.version)).release.values

    return asked(store, ask) if store.is_dir() else None
