"""What a process of the bus sends to its neighbours: what is pending, up; what is applied, down (without I/O)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.order_log import Log

WINDOW: Final = 512
"""Messages on their way on one link: an eighth of what the channel queues, whose other users are not to wait."""

WINDOW_BYTES: Final = 1 << 20
"""Bytes of values on their way on one link: some milliseconds of a local socket."""

PENDING: Final = 1024
"""Messages of one process that may wait for the root, before its publishers wait themselves."""

PENDING_BYTES: Final = 4 << 20
"""Bytes of values that may wait for the root, before publishers wait."""

Vector = dict[bytes, int]


class Link(Protocol):
    """One neighbour."""

    @property
    def newer(self) -> bool:
        """Whether it is of a newer generation."""

    def send(self, message: m.Message) -> None:
        """Say something to it; raises BufferError when it reads nothing."""


def say(link: Link, message: m.Message) -> bool:
    """Say something to a neighbour; False when it reads nothing."""
    try:
        link.send(message)
    except BufferError:
        return False
    return True


@dataclass(slots=True)
class Post:
    """A message that has not come down from the root."""

    origin: bytes
    number: int
    topic: str
    value: bytes
    sent: bool = False

    @property
    def key(self) -> tuple[bytes, int]:
        """What tells it from all others."""
        return self.origin, self.number


class Pending:
    """What has been published here or below and has not come down, in its order."""

    def __init__(self) -> None:
        self._posts: dict[tuple[bytes, int], Post] = {}
        self._bytes = 0
        self._unsent: deque[Post] = deque()
        self._flying = 0
        self._flying_bytes = 0

    def __contains__(self, key: tuple[bytes, int]) -> bool:
        return key in self._posts

    @property
    def full(self) -> bool:
        """Whether publishers should wait."""
        return len(self._posts) >= PENDING or self._bytes >= PENDING_BYTES

    def add(self, post: Post) -> None:
        """Put a message at the end."""
        self._posts[post.key] = post
        self._bytes += len(post.value)
        self._unsent.append(post)

    def echoed(self, origin: bytes, number: int) -> None:
        """The message has come down."""
        post = self._posts.pop((origin, number), None)
        if post is not None:
            self._bytes -= len(post.value)
            if post.sent:
                self._flying -= 1
                self._flying_bytes -= len(post.value)

    def take(self) -> list[Post]:
        """Give everything away, in order."""
        posts = list(self._posts.values())
        self._posts.clear()
        self._unsent.clear()
        self._bytes = self._flying = self._flying_bytes = 0
        return posts

    def restart(self, posts: Iterable[Post]) -> None:
        """Begin anew with these, of which nothing is sent."""
        posts = list(posts)
        self.take()
        for post in posts:
            post.sent = False
            self.add(post)

    def due(self) -> Iterator[Post]:
        """Yield what the window takes now; what is yielded counts as sent."""
        while self._unsent and self._flying < WINDOW and self._flying_bytes < WINDOW_BYTES:
            post = self._unsent.popleft()
            if self._posts.get(post.key) is post:
                post.sent = True
                self._flying += 1
                self._flying_bytes += len(post.value)
                yield post


class Below:
    """An older neighbour, and what it has been sent.

    Args:
        link: to it.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.past: list[m.BusPast] = []
        self.joined = False
        self._joined_at = 0
        self._has: Vector = {}  # what it had applied when it joined
        self._welcome: Vector | None = None  # to be said when it has what was there when it joined
        self._sent = 0  # the position up to which everything was sent
        self._index = 0
        self._unseen: deque[int] = deque()  # the bytes of each message that it has not acknowledged
        self._unseen_bytes = 0

    def join(self, log: Log, has: Vector, welcome: Vector) -> None:
        """It is part of the order from here on.

        Args:
            log: what can be sent to it.
            has: what it had applied, which is not sent again.
            welcome: what this process has applied.
        """
        self.joined = True
        self._joined_at = log.position
        self._sent = log.first - 1
        self._has = has
        self._welcome = welcome

    def feed(self, log: Log) -> bool:
        """Send what the window takes.

        Returns:
            False when it reads nothing.
        """
        if not self.joined:
            return True
        while self._sent < log.position and len(self._unseen) < WINDOW and self._unseen_bytes < WINDOW_BYTES:
            if not self._greet():
                return False
            entry = log.at(self._sent + 1)
            self._sent += 1
            if entry.position <= self._joined_at and entry.number <= self._has.get(entry.origin, 0):
                continue
            self._index += 1
            self._unseen.append(len(entry.value))
            self._unseen_bytes += len(entry.value)
            published = m.Published(self._index, entry.position, entry.origin, entry.number, entry.topic, entry.value)
            if not say(self.link, published):
                return False
        return self._greet()

    def _greet(self) -> bool:
        if self._welcome is None or self._sent < self._joined_at:
            return True
        welcome, self._welcome = self._welcome, None
        return say(self.link, m.BusWelcome(list(welcome.items())))

    def seen(self, index: int) -> None:
        """It has so many of the messages that were sent."""
        while self._unseen and self._index - len(self._unseen) < index:
            self._unseen_bytes -= self._unseen.popleft()
