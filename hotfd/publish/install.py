"""Hooks of a repository: what is written there, and what is never overwritten."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from hotfd.errors import ConfigError
from hotfd.publish.programs import Deadline
from hotfd.publish.repository import checked_path, kind_of

MARK: Final = "# Made by hotfd config hook, which also removes it: this file is written again by it."
"""By this line a hook is known as hotfd's own."""

MAX_HOOK: Final = 1 << 20
"""Bytes of a hook that are looked at."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the hooks of a repository are told: all of it, since Subversion runs them with an empty environment.

    Attributes:
        kind: of the repository.
        repository: its directory, absolute.
        store: the store's URL.
        path: the directory of modules in it.
        branch: which branch of git is published; empty for Subversion.
        allow_scripts: whether scripts are run.
    """

    kind: Literal["git", "svn"]
    repository: str
    store: str
    path: str = ""
    branch: str = ""
    allow_scripts: bool = False

    def arguments(self) -> list[str]:
        """Return them as arguments of ``python -m hotfd.publish``."""
        values = ("kind", "repository", "store", "path", "branch")
        words = [f"--{name}={getattr(self, name)}" for name in values]
        return [*words, "--allow-scripts"] if self.allow_scripts else words


def command(settings: Settings, what: str) -> list[str]:
    """Return the command that a hook runs.

    The interpreter is isolated (``-I``): neither the directory that the hook runs in, which committers fill, nor the
    committer's environment says which code it loads.
    """
    return [sys.executable, "-I", "-m", "hotfd.publish", *settings.arguments(), "--", what]


def settings_of(
    kind: Literal["git", "svn"], where: str, store: str, path: str, branch: str | None, allow_scripts: bool
) -> Settings:
    """Return the settings for a repository's hooks.

    Args:
        kind: what it is.
        where: its directory.
        store: the store's URL; of a directory it becomes absolute.
        path: the directory of modules in it.
        branch: which branch of git; None for the one that is checked out, or that is the repository's first.
        allow_scripts: whether scripts are run.

    Raises:
        ConfigError: it is no such repository on this machine, or the store is none.
    """
    from hotfd.config.open import open_store

    if kind_of(where) != kind:
        raise ConfigError(f"{where} is no {'git' if kind == 'git' else 'Subversion'} repository on this machine")
    if store.startswith("dir:"):
        store = f"dir:{os.path.abspath(store.removeprefix('dir:'))}"
    for name, file in parse_qsl(urlsplit(store).query):
        if name in {"ca", "cert", "key"} and not os.path.isabs(file):
            raise ConfigError(f"--store: {name}={file} must be an absolute path: hooks do not run in this directory")
    open_store(store)  # whether it is the URL of one
    if kind == "git":
        branch = _branch(where, branch)
    return Settings(kind, os.path.abspath(where), store, checked_path(path), branch or "", allow_scripts)


def _branch(where: str, branch: str | None) -> str:
    """Return the name of a branch, without what git has before it; of the one that is checked out, if none is named."""
    from hotfd.publish.git import Git

    git = Git(where, "", Deadline())
    if branch is None:
        return git.text("symbolic-ref", "--short", "HEAD")
    branch = branch.removeprefix("refs/heads/")
    if git.git("check-ref-format", f"refs/heads/{branch}", statuses=(0, 1))[0]:
        raise ConfigError(f"--branch {branch!r} is no name of a branch")
    return branch


def hooks_of(kind: Literal["git", "svn"], where: str) -> tuple[str, tuple[str, str]]:
    """Return the directory of a repository's hooks, and which two hotfd has there: before and after."""
    if kind == "svn":
        return os.path.join(os.path.abspath(where), "hooks"), ("pre-commit", "post-commit")
    from hotfd.publish.git import Git

    git = Git(where, "", Deadline())
    directory = os.path.join(os.path.abspath(where), git.text("rev-parse", "--git-path", "hooks"))
    own = (os.path.abspath(where), git.text("rev-parse", "--path-format=absolute", "--git-common-dir"))
    if not any(_is_in(directory, place) for place in own):
        raise ConfigError(
            f"core.hooksPath of git leads to {directory}, where other repositories have their hooks as well; give this one "
            f"its own with:  git -C {shlex.quote(os.path.abspath(where))} config core.hooksPath {shlex.quote(own[1])}/hooks"
        )
    bare = git.text("rev-parse", "--is-bare-repository") == "true"
    return directory, ("pre-receive", "post-receive") if bare else ("pre-commit", "post-commit")


def install(settings: Settings) -> list[str]:
    """Write the hooks of a repository.

    Returns:
        what was written.

    Raises:
        ConfigError: another hook is there, which says what to add to it; or they cannot be written. Nothing is changed.
    """
    directory, names = hooks_of(settings.kind, settings.repository)
    lines = {name: shlex.join(command(settings, f"{settings.kind}-{name}")) for name in names}
    foreign = [name for name in names if _is_foreign(os.path.join(directory, name))]
    if foreign:
        added = "\n".join(f'  {name}:  {lines[name]} "$@" || exit 1' for name in names)
        raise ConfigError(
            f"{' and '.join(os.path.join(directory, name) for name in foreign)} is there already, and not hotfd's. "
            f"Nothing was changed. Add these lines to the hooks:\n{added}"
        )
    try:
        os.makedirs(directory, exist_ok=True)
        paths = [os.path.join(directory, name) for name in names]
        for name, path in zip(names, paths, strict=True):
            _write(path, f'#!/bin/sh\n{MARK}\nexec {lines[name]} "$@"\n')
    except OSError as error:
        raise ConfigError(f"the hooks cannot be written: {error.filename}: {error.strerror}") from None
    if settings.kind == "git" and names[0] == "pre-receive":
        from hotfd.publish.git import Git

        # So that a person can accept a rewritten history, push by push: git push --push-option, githooks(5).
        Git(settings.repository, "", Deadline()).text("config", "receive.advertisePushOptions", "true")
    return paths


def remove(kind: Literal["git", "svn"], where: str) -> list[str]:
    """Remove hotfd's hooks of a repository, and those alone.

    Returns:
        what was removed.

    Raises:
        ConfigError: they cannot be removed.
    """
    if kind_of(where) != kind:
        raise ConfigError(f"{where} is no {'git' if kind == 'git' else 'Subversion'} repository on this machine")
    directory, names = hooks_of(kind, where)
    removed = []
    for path in (os.path.join(directory, name) for name in names):
        try:
            if os.path.exists(path) and not _is_foreign(path):
                os.unlink(path)
                removed.append(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be removed: {error.strerror}") from None
    return removed


def _is_in(path: str, directory: str) -> bool:
    directory = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), directory]) == directory


def _is_foreign(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return MARK not in file.read(MAX_HOOK).splitlines()
    except FileNotFoundError:
        return os.path.lexists(path)


def _write(path: str, text: str) -> None:
    """Put a hook in place in one step: a commit at this moment runs the old one or the new one."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o755)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o755)  # whoever commits runs it, whatever the umask here is
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
