"""The token that a console asks for, and the file that it is in."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import Final

from hotfd.errors import ControlError

MIN_TOKEN: Final = 16
"""Fewest bytes of a token: what is shorter can be guessed, whatever the log-in does against it."""

MAX_TOKEN: Final = 512
"""Most bytes of a token: it is typed, or pasted, as one line."""

RANDOM_BYTES: Final = 24
"""Random bytes of a token that is made here: 192 bits, 32 letters."""


class TokenUnusable(ControlError):  # noqa: N818 - reads as the condition
    """The token file cannot be used; the text says why and what to do."""


def default_path() -> str:
    """Return where the token is when nobody says otherwise.

    ``$XDG_CONFIG_HOME/hotfd/token``, else ``/etc/hotfd/token`` for root, else ``~/.config/hotfd/token``.
    """
    base = os.environ.get("XDG_CONFIG_HOME")
    if base and os.path.isabs(base):  # a relative one is to be ignored, says the XDG base directory specification
        return os.path.join(base, "hotfd", "token")
    if os.geteuid() == 0:
        return "/etc/hotfd/token"
    return os.path.expanduser("~/.config/hotfd/token")


class TokenFile:
    """A file with a token, which its owner alone may read.

    It is read at each log-in, so that a new token counts at once.

    Args:
        path: where it is; :func:`default_path` when None.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = default_path() if path is None else path

    def make(self) -> bool:
        """Make the file with a random token if there is none.

        Returns:
            whether it was made.

        Raises:
            TokenUnusable: it cannot be made.
        """
        if os.path.lexists(self.path):
            return False
        directory = os.path.dirname(self.path) or "."
        # Complete before it has its name: of two servers that start at once, neither reads half a token.
        draft = f"{self.path}.{secrets.token_hex(8)}"
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(secrets.token_urlsafe(RANDOM_BYTES).encode() + b"\n")
                return _link(draft, self.path)
            finally:
                os.unlink(draft)
        except OSError as error:
            raise TokenUnusable(
                f"the token file {self.path} cannot be made ({error.strerror}); make it, or name another with "
                "control_token="
            ) from error

    def read(self) -> bytes:
        """Return the token.

        Raises:
            TokenUnusable: the file cannot be read, is not its owner's alone, or holds no token.
        """
        try:
            # Not to wait for a writer where somebody has put a pipe, and not to follow a link (open(2)).
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags)
        except OSError as error:
            what = "is a symbolic link; name the file itself" if error.errno == errno.ELOOP else error.strerror
            raise TokenUnusable(f"the token file {self.path} cannot be opened: {what}") from error
        try:
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> bytes:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise TokenUnusable(f"{self.path} is no regular file; remove it")
        if found.st_uid != os.geteuid():
            raise TokenUnusable(
                f"the token file {self.path} belongs to uid {found.st_uid}, and this server runs as uid "
                f"{os.geteuid()}: chown it, or name another with control_token="
            )
        if found.st_mode & 0o077:
            raise TokenUnusable(
                f"others may read the token file {self.path} (mode {found.st_mode & 0o777:04o}): chmod 600 it, and "
                "change the token if somebody may have read it"
            )
        token = b""
        with suppress(OSError):
            token = os.read(descriptor, MAX_TOKEN + 2).strip()
        if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not all(0x20 <= byte < 0x7F for byte in token):
            raise TokenUnusable(
                f"the token file {self.path} must hold one line of {MIN_TOKEN} to {MAX_TOKEN} printable ASCII "
                "characters; remove it, and the server makes a new one when it starts"
            )
        return token


def _link(draft: str, path: str) -> bool:
    """Give a file its name; False when somebody else was quicker."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    return True
