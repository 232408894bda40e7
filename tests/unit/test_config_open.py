"""From URLs to stores and sources."""

from __future__ import annotations

import builtins
import os
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.config.open import open_source, open_store
from hotfd.config.reader import StoreSource
from hotfd.config.source import Identity
from hotfd.errors import ConfigError, StoreError
from tests.unit.config_stores import publish

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = Identity("s1", "arena", "eu", "h", 7, 1)


async def test_a_directory_is_opened_by_its_path(tmp_path: Path) -> None:
    store = open_store(f"dir:{tmp_path}/store", create=True)
    assert store.url == f"dir:{tmp_path}/store"
    head = await publish(store, "game")
    assert await open_store(f"dir:{tmp_path}/store").heads() == {"game": head}
    source = open_source(f"dir:{tmp_path}/store", IDENTITY, 0.1)
    assert isinstance(source, StoreSource)
    async for heads in source.heads(["game"]):
        assert heads == {"game": head}
        await source.aclose()


async def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("dir:store", create=True)
    monkeypatch.chdir("/")
    await store.heads()
    assert os.listdir(tmp_path) == ["store"]


async def test_opening_touches_nothing(tmp_path: Path) -> None:
    store = open_store(f"dir:{tmp_path}/store", create=True)
    open_source(f"dir:{tmp_path}/store", IDENTITY)
    assert os.listdir(tmp_path) == []
    await store.aclose()
    assert os.listdir(tmp_path) == []
    with pytest.raises(StoreError, match="no store at"):
        await open_store(f"dir:{tmp_path}/store").heads()


@pytest.mark.parametrize("url", ["", "/srv/config", "file:/srv/config", "http://h/x", "dir:", "dir:a\0b", "DIR:/x"])
def test_what_is_no_store_is_told_what_there_is(url: str) -> None:
    with pytest.raises(ConfigError, match="dir:"):
        open_store(url)
    with pytest.raises(ConfigError, match="dir:"):
        open_source(url, IDENTITY)


def test_what_may_be_a_secret_in_a_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("postgres://anna:secret@db/config")
    assert "secret" not in str(caught.value)


def test_configuration_servers_are_no_store() -> None:
    with pytest.raises(ConfigError, match="source"):
        open_store("hotfd://h:1")


def test_etcd_says_what_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "hotfd.config.etcd":
            raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'hotfd\[etcd\]'"):
        open_store("etcd://127.0.0.1:2379/hotfd")
