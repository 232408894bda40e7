"""Publishing at an interval: for repositories that nobody may install hooks in, and for hooks that were lost."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from hotfd import log
from hotfd.config.open import open_store
from hotfd.errors import ConfigError
from hotfd.publish.faults import RevisionRefused
from hotfd.publish.session import opened, publisher

if TYPE_CHECKING:
    from hotfd.publish.session import Order


async def follow(order: Order, store_url: str, interval: float) -> None:
    """Publish what is committed, again and again, until SIGTERM or SIGINT.

    Args:
        order: what to publish from where.
        store_url: where to.
        interval: seconds between the end of one look and the next one.

    Raises:
        ConfigError: the URL is none of a store.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await open_store(store_url).aclose()  # whether it is the URL of one
    log.event(logging.INFO, "config-follow-started", repository=order.where, interval=interval)
    said = ""
    while not ended.is_set():
        look = asyncio.create_task(_look(order, store_url))
        stop = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({look, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if not look.done():
            # What is being committed to the store is committed or not; the next process looks at what became of it.
            look.cancel()
            with suppress(asyncio.CancelledError):
                await look
            break
        said = _told(look.exception(), said)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), interval)
    log.event(logging.INFO, "config-follow-ended", repository=order.where)


async def _look(order: Order, store_url: str) -> None:
    store = open_store(store_url, create=True)
    try:
        repository = await asyncio.to_thread(opened, order)
        # What a script says may hold values, which no log shall have.
        publishing = publisher(order, repository, store, _note, script_note=lambda _line: None)
        try:
            await publishing.publish(order.rev)
        finally:
            for one in publishing.published:
                log.event(logging.INFO, "config-published", module=one.module, version=one.version, at=one.revision)
    finally:
        await store.aclose()


def _note(line: str) -> None:
    log.event(logging.DEBUG, "config-publish-note", note=line)


def _told(error: BaseException | None, said: str) -> str:
    """Log why a look has failed, once for as long as it fails for the same reason; return the reason."""
    if error is None:
        if said:
            log.event(logging.INFO, "config-follow-recovered")
        return ""
    if not isinstance(error, ConfigError | OSError):
        raise error
    text = str(error)
    if text != said:
        if isinstance(error, RevisionRefused):
            # The faults hold values, which no log shall have: ``hotfd config validate`` shows them.
            paths = ", ".join(fault.path or "the values" for fault in error.faults[: error.SHOWN])
            log.event(logging.ERROR, "config-publish-refused", module=error.module, at=error.revision, faults=paths)
        else:
            log.event(logging.ERROR, "config-follow-failed", error=text)
    return text
