"""``hotfd config follow``: what is committed is published at an interval, whatever fails meanwhile."""

import os
import signal
import subprocess
from contextlib import contextmanager

import pytest

from tests.integration.harness import PATIENCE, becomes
from tests.integration.repositories import CONFIG, Git, Svn, in_force, needs_svn


@contextmanager
def follower(repository, store, log):
    """Follow a repository; give the process."""
    command = [*CONFIG, "follow", str(repository.where), "--store", f"dir:{store}", "--interval", "0.1"]
    with open(log, "wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["git", pytest.param("svn", marks=needs_svn)])
def test_what_is_committed_is_published_and_what_is_refused_is_logged_once(tmp_path, kind):
    repository, store, log = (Git if kind == "git" else Svn)(tmp_path), tmp_path / "store", tmp_path / "log"
    with follower(repository, store, log) as process:
        repository.commit({"match/config.toml": "hp = 10"})
        becomes(lambda: in_force(store), (1, {"hp": 10}))
        repository.commit({"match/config.toml": "hp = 'secret' = 1"})
        becomes(lambda: "config-publish-refused" in log.read_text(), True)
        os.rename(store, tmp_path / "away")
        store.write_text("no directory")
        becomes(lambda: "config-follow-failed" in log.read_text(), True)
        store.unlink()
        os.rename(tmp_path / "away", store)
        repository.commit({"match/config.toml": "hp = 11"})
        becomes(lambda: in_force(store), (2, {"hp": 11}))
        becomes(lambda: "config-follow-recovered" in log.read_text(), True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    text = log.read_text()
    assert text.count("config-publish-refused") in {1, 2}, "once before the store was away, and once after it"
    assert "secret" not in text
    assert "Traceback" not in text
