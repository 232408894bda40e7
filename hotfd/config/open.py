"""From a URL to a store or a source.

=============================================  =======================================================
``dir:/PATH``                                  a directory
``etcd://HOST:PORT,.../PREFIX``                etcd; with ``?ca=FILE&cert=FILE&key=FILE`` over TLS
``hotfd://HOST:PORT,...``                      configuration servers: a source, and no store
=============================================  =======================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotfd.config.reader import StoreSource
from hotfd.config.store import INTERVAL
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.source import Identity, Source
    from hotfd.config.store import Store

_STORES: Final = "dir:/PATH, etcd://HOST:PORT,.../PREFIX"
_SOURCES: Final = f"{_STORES}, hotfd://HOST:PORT,..."


def open_store(url: str, create: bool = False) -> Store:
    """Return the store at a URL. Nothing is read or connected before it is used.

    Args:
        url: as above.
        create: make a directory that is missing a store when it is first used.

    Raises:
        ConfigError: the URL is none of a store, or what it needs is not installed.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "dir":
        return _directory(rest, create=create)
    if scheme == "etcd":
        return _etcd(url)
    if scheme == "hotfd":
        raise ConfigError("configuration servers (hotfd://) are a source for servers; name the store behind them")
    raise ConfigError(f"{_shown(url)} is no store; there are {_STORES}")


def open_source(url: str, identity: Identity, interval: float = INTERVAL) -> Source:
    """Return the source at a URL. Nothing is read or connected before it is used.

    Args:
        url: as above.
        identity: who follows it.
        interval: seconds between two looks.

    Raises:
        ConfigError: the URL is none of a source, or what it needs is not installed.
    """
    scheme = url.partition(":")[0]
    if scheme == "hotfd":
        from hotfd.config.client import ServersSource

        return ServersSource(url, identity, interval)
    if scheme in ("dir", "etcd"):
        return StoreSource(open_store(url), interval)
    raise ConfigError(f"{_shown(url)} is no source of configuration; there are {_SOURCES}")


def _directory(path: str, *, create: bool) -> Store:
    from hotfd.config.directory import DirectoryStore

    if not path or "\0" in path:
        raise ConfigError("dir: needs a path, as in dir:/srv/config")
    return DirectoryStore(path, create=create)


def _etcd(url: str) -> Store:
    try:
        from hotfd.config.etcd import EtcdStore
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ConfigError("etcd:// needs aiohttp, which is not installed: pip install 'hotfd[etcd]'") from None
    return EtcdStore(url)


def _shown(url: str) -> str:
    """Return what may be shown of a URL that nobody knows: it may hold a password."""
    scheme, colon, _ = url.partition(":")
    return repr(f"{scheme}:...") if colon else repr(url)
