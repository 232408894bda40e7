"""Hooks of real repositories: what is bad is refused before it is committed, what is good is published after that, and
nobody is held up."""

import fcntl
import os
import shlex
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.harness import PATIENCE, becomes, kill, wait_gone
from tests.integration.repositories import KEEP, Git, Svn, good, in_force, inside, needs_svn, run

SERVERS = ["bare", pytest.param("svn", marks=needs_svn)]
KINDS = ["bare", "working", pytest.param("svn", marks=needs_svn)]


def workers(where):
    """Return the processes that publish from a repository."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"hotfd.publish" in words and b"work" in words and f"--repository={where}".encode() in words:
                found.append(int(entry))
    return found


@pytest.fixture
def made(tmp_path):
    """Make repositories, and end what still publishes from them."""
    repositories = []

    def make(kind, directory=tmp_path):
        repository = Svn(directory) if kind == "svn" else Git(directory, bare=kind == "bare")
        repositories.append(repository)
        return repository

    yield make
    for repository in repositories:
        for pid in workers(repository.where):
            kill(pid)
            wait_gone(pid)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def hook(repository, store, *options):
    url = store if isinstance(store, str) else f"dir:{store}"
    return inside("hook", repository.kind, repository.where, "--store", url, *options)


def install(repository, store, *options, limit=60):
    """Install the hooks; they have so many seconds instead of two, so that a slow machine checks everything."""
    done = hook(repository, store, *options)
    assert done.status == 0, done.err
    if limit:
        for line in done.out.splitlines():
            path = Path(line.removeprefix("wrote "))
            path.write_text(path.read_text().replace(" -- ", f" --limit={limit} -- "))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_bad_is_refused_and_what_is_good_is_published(made, store, kind):
    repository = made(kind)
    install(repository, store)
    repository.commit({"match/config.toml": "hp = 10"})
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    before = repository.newest()
    done = repository.try_commit({"match/config.toml": "hp = = 11", "match/zones/eu.json": "{"})
    assert done.status != 0
    assert "match/config.toml:1:6: this is no TOML" in done.err
    assert "match/zones/eu.json:1:2: this is no JSON" in done.err
    assert repository.newest() == before
    assert in_force(store) == (1, {"hp": 10})
    repository.commit({"match/config.toml": "hp = 12", "match/zones/eu.json": '{"hp": 13}'})
    becomes(lambda: in_force(store), (2, {"hp": 12}))
    becomes(lambda: workers(repository.where), [])
    assert not (repository.spool / "pending").exists()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_commit_does_not_wait_for_a_store_and_is_published_when_there_is_one(made, store, kind):
    repository = made(kind)
    install(repository, store, limit=None)
    repository.commit({"match/config.toml": "hp = 10"})
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    with open(store / "lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Who commits comes back while the store is still held: this would never return otherwise.
        done = repository.try_commit({"match/instruction.toml": KEEP + "sword = 1"})
        assert done.status == 0
        assert "it is being published" in done.said
        assert in_force(store) == (1, {"hp": 10})
        assert (repository.spool / "pending").exists()
    becomes(lambda: in_force(store), (2, {"hp": 10, "sword": 1}))
    becomes(lambda: workers(repository.where), [])
    assert not (repository.spool / "pending").exists()


@contextmanager
def silent():
    """Give the URL of a store that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"etcd://127.0.0.1:{listener.getsockname()[1]}/config"


def test_with_a_store_that_never_answers_what_can_be_checked_is_checked(made, store):
    pytest.importorskip("aiohttp", reason="the store that never answers is an etcd one")
    repository = made("bare")
    with silent() as url:
        install(repository, url, limit=20)
        bad = repository.try_commit({"match/config.toml": "hp = = 10"})
        assert bad.status == 1
        assert "match/config.toml:1:6: this is no TOML" in bad.err
        assert "checked as far as that is possible without the store" in bad.err
        repository.git("update-ref", "-d", "HEAD")
        install(repository, url, limit=None)
        done = repository.try_commit({"match/config.toml": "hp = 10"})
        assert done.status == 0, done.err
        assert (repository.spool / "pending").exists()
        [worker] = workers(repository.where)
        kill(worker)
        wait_gone(worker)
    # What a worker that was killed has left is published by the next one.
    install(repository, store)
    repository.commit({"match/instruction.toml": KEEP + "sword = 1", "shop/config.toml": "tax = 1"})
    becomes(lambda: in_force(store, "shop"), (1, {"tax": 1}))
    becomes(lambda: (repository.spool / "pending").exists(), False)


@pytest.mark.parametrize("kind", SERVERS)
def test_who_commits_sees_why_the_store_takes_nothing_and_it_is_tried_again(made, store, kind):
    repository = made(kind)
    store.write_text("a file where a directory should be")
    install(repository, store)
    done = repository.try_commit({"match/config.toml": "hp = 10"})
    assert "the store cannot be asked now" in done.err or kind == "svn", "svn shows nothing of a hook that lets pass"
    assert "not published yet" in done.said
    assert str(store) in done.said
    assert repository.newest() not in {"", "r0"}
    store.unlink()
    becomes(lambda: in_force(store), (1, {"hp": 10}))


@pytest.mark.parametrize("kind", SERVERS)
def test_what_is_refused_after_it_was_committed_is_shown_to_who_commits_next(made, store, kind):
    repository = made(kind)
    install(repository, store)
    before = repository.where / "hooks" / ("pre-commit" if kind == "svn" else "pre-receive")
    text = before.read_text()
    before.unlink()
    repository.try_commit({"match/config.toml": "hp = = 10"})
    if kind == "svn":
        good("svn", "update", "-q", cwd=repository.files)
    becomes(lambda: (repository.spool / "pending").exists(), False)
    assert "match/config.toml:1:6" in (repository.spool / "refused").read_text()
    assert "hp" not in (repository.spool / "log").read_text(), "values are in no log"
    before.write_text(text)
    before.chmod(0o755)
    done = repository.try_commit({"match/config.toml": "hp = 10"})
    assert "what was committed before was refused" in done.said
    assert "match/config.toml:1:6: this is no TOML" in done.said
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    becomes(lambda: (repository.spool / "refused").exists(), False)


def test_only_the_branch_that_is_published_is_looked_at(made, store):
    repository = made("bare")
    install(repository, store)
    repository.commit({"match/config.toml": "hp = 10"})
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    repository.git("checkout", "-q", "-b", "draft")
    repository.git("config", "push.default", "current")
    (repository.files / "match" / "config.toml").write_text("hp = = 11")
    repository.git("commit", "-q", "-a", "-m", "broken")
    assert run("git", "-C", repository.files, "push", "origin", "HEAD:draft").status == 0
    refused = run("git", "-C", repository.files, "push", "origin", "HEAD:main")
    assert (refused.status, "this is no TOML" in refused.err) == (1, True)
    good("git", "--git-dir", repository.where, "config", "receive.denyDeleteCurrent", "ignore")
    removed = run("git", "-C", repository.files, "push", "origin", ":main")
    assert (removed.status, "stays in force" in removed.err) == (0, True)
    assert not (repository.spool / "refused").exists()
    assert in_force(store) == (1, {"hp": 10})


def test_a_forced_push_is_refused_until_it_is_accepted(made, store):
    repository = made("bare")
    install(repository, store)
    repository.commit({"match/config.toml": "hp = 10"})
    old = repository.commit({"match/config.toml": "hp = 11"})
    becomes(lambda: in_force(store), (2, {"hp": 11}))
    repository.forget_last()
    (repository.files / "match" / "config.toml").write_text("hp = 12")
    repository.git("commit", "-q", "-a", "-m", "another")
    new = repository.git("rev-parse", "HEAD")
    refused = repository.push("--force")
    assert refused.status == 1
    assert f"was rewritten: release 2 was made from {old[:12]}, which is no ancestor of {new[:12]}" in refused.err
    assert (repository.newest(), in_force(store)) == (old, (2, {"hp": 11}))
    accepted = repository.push("--force", "--push-option=hotfd-rewritten")
    assert accepted.status == 0, accepted.err
    becomes(lambda: in_force(store), (3, {"hp": 12}))


def test_a_rewritten_branch_is_refused_also_where_nothing_was_published_of_it(made, store):
    repository = made("bare")
    repository.commit({"README": "one"})
    repository.commit({"README": "two"})
    install(repository, store)
    repository.forget_last()
    (repository.files / "README").write_text("three")
    repository.git("commit", "-q", "-a", "-m", "another")
    refused = repository.push("--force")
    assert (refused.status, "branch main was rewritten" in refused.err) == (1, True)


def test_a_file_of_fifty_megabytes_and_a_script_that_does_not_end_are_refused(made, store):
    repository = made("bare")
    install(repository, store, "--allow-scripts", limit=12)
    loops = "#!/bin/sh\nwhile :; do sleep 1; done\n"
    done = repository.try_commit({"match/instruction": loops, "shop/config.json": b"x" * 50_000_000})
    assert done.status != 0
    assert "shop/config.json: the file has 50000000 bytes" in done.err
    assert "match/instruction: the script was not done after" in done.err
    assert in_force(store) is None


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_others_are_left_alone_and_own_ones_can_be_removed(made, store, kind, tmp_path):
    directory = tmp_path / 'it\'s a "place"'
    directory.mkdir()
    repository = made(kind, directory)
    hooks = (repository.where / ".git" if kind == "working" else repository.where) / "hooks"
    first, second = ("pre-receive", "post-receive") if kind == "bare" else ("pre-commit", "post-commit")
    hooks.mkdir(exist_ok=True)
    (hooks / second).write_text("#!/bin/sh\nexit 0\n")
    (hooks / second).chmod(0o755)
    refused = hook(repository, store)
    assert refused.status == 1
    assert str(hooks / second) in refused.err
    assert shlex.quote(f"--repository={repository.where}") in refused.err, "the line to add is there"
    assert not (hooks / first).exists()
    assert (hooks / second).read_text() == "#!/bin/sh\nexit 0\n"
    (hooks / second).unlink()
    install(repository, store)
    install(repository, store, "--allow-scripts")
    repository.commit({"match/config.toml": "hp = 10"})
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    (hooks / first).write_text("#!/bin/sh\nexit 0\n")
    removed = inside("hook", repository.kind, repository.where, "--remove")
    assert removed.status == 0
    assert ((hooks / first).exists(), (hooks / second).exists()) == (True, False)


def test_what_is_no_such_repository_or_no_store_is_told(made, tmp_path):
    repository = made("bare")
    for words in (
        ("svn", repository.where, "--store", "dir:/tmp/x"),
        ("git", tmp_path / "none", "--store", "dir:/tmp/x"),
        ("git", repository.where, "--store", "ftp://x"),
    ):
        done = inside("hook", *words)
        assert done.status in {1, 2}
        assert done.err
    assert inside("hook", "git", repository.where).status == 2
    assert not (repository.where / "hooks" / "pre-receive").exists()


def test_a_push_of_many_commits_publishes_each(made, store):
    repository = made("bare")
    install(repository, store)
    repository.commit({"match/config.toml": "hp = 10"})
    becomes(lambda: in_force(store), (1, {"hp": 10}))
    for number in range(3):
        (repository.files / "match" / "instruction.toml").write_text(KEEP + f"k{number} = 1")
        repository.git("add", "-A")
        repository.git("commit", "-q", "-m", "x")
    assert repository.push().status == 0
    becomes(lambda: in_force(store), (4, {"hp": 10, "k0": 1, "k1": 1, "k2": 1}))


def test_a_hook_knows_how_old_its_process_is():
    from hotfd.publish.hooks import age

    before = age()
    time.sleep(0.05)
    assert 0.02 < age() - before < 60


def test_a_git_that_takes_forever_holds_nobody_and_refuses_nothing(made, store, tmp_path):
    repository = made("bare")
    install(repository, store, limit=3)
    slow, calls = tmp_path / "slow", tmp_path / "calls"
    slow.mkdir()
    (slow / "git").write_text(f'#!/bin/sh\necho "$$ $*" >> {calls}\nexec sleep 300\n')
    (slow / "git").chmod(0o755)
    for name in ("pre-receive", "post-receive"):
        path = repository.where / "hooks" / name
        # git puts its own directory before every other one.
        path.write_text(path.read_text().replace("exec ", f"PATH={slow}:$PATH exec ", 1))
    done = repository.try_commit({"match/config.toml": "hp = 10"})
    assert done.status == 0, done.err
    assert "not everything could be checked in time" in done.err
    assert "it is being published" in done.err
    [worker] = workers(repository.where)
    kill(worker)
    wait_gone(worker)
    # One call of the hook before, and at most one of the worker: each could have taken half a minute.
    lines = [line.split(" ", 1) for line in calls.read_text().splitlines()]
    for pid, _ in lines:
        with suppress(ProcessLookupError):
            kill(int(pid))
    assert len(lines) <= 2, lines


def test_a_branch_is_found_among_ten_thousand_that_are_pushed_with_it(made, store):
    repository = made("bare")
    install(repository, store)
    (repository.files / "match").mkdir()
    (repository.files / "match" / "config.toml").write_text("hp = = 1")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "broken")
    good("git", "-C", repository.files, "push", "-q", "origin", "HEAD:draft")
    new = repository.git("rev-parse", "HEAD")
    lines = [f"{'0' * 40} {new} refs/heads/{'x' * 100}/{number}\n" for number in range(10_000)]
    pushed = "".join([*lines, f"{'0' * 40} {new} refs/heads/main\n"])
    hook = repository.where / "hooks" / "pre-receive"
    done = subprocess.run([hook], cwd=repository.where, input=pushed, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, "match/config.toml:1:6: this is no TOML" in done.stderr) == (1, True)


def test_what_was_committed_is_published_also_when_nobody_listens_any_more(made, store):
    repository = made("bare")
    install(repository, store)
    after = repository.where / "hooks" / "post-receive"
    (repository.where / "hooks" / "pre-receive").unlink()
    # Its faults cannot be written in UTF-8, and are kept for the next one who commits: these lines are said first.
    nobody = os.fsencode(repository.files) + b"/M\xff"
    os.mkdir(nobody)
    with open(nobody + b"/config.toml", "w") as file:
        file.write("a = 1")
    repository.try_commit({})
    becomes(lambda: (repository.spool / "pending").exists(), False)
    assert "M?" in (repository.spool / "refused").read_text()
    with open(nobody + b"/config.toml", "w") as file:
        file.write("")
    repository.git("rm", "-q", "-r", "--cached", ":/")
    os.unlink(nobody + b"/config.toml")
    os.rename(after, after.with_suffix(".kept"))
    repository.commit({"match/config.toml": "hp = 1"})
    os.rename(after.with_suffix(".kept"), after)
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        line = f"{'0' * 40} {repository.newest()} refs/heads/main\n"
        subprocess.run([after], cwd=repository.where, input=line, stderr=theirs, text=True, timeout=PATIENCE)
    finally:
        os.close(theirs)
    becomes(lambda: in_force(store), (1, {"hp": 1}))


def test_each_working_tree_commits_to_its_own_branch(made, store, tmp_path):
    repository = made("working")
    install(repository, store)
    repository.commit({"match/config.toml": "hp = 1"})
    becomes(lambda: in_force(store), (1, {"hp": 1}))
    other = tmp_path / "other"
    repository.git("worktree", "add", "-q", "-b", "draft", other)
    (other / "match" / "config.toml").write_text("hp = = 2")
    good("git", "-C", other, "commit", "-q", "-a", "-m", "broken, and nobody's business")
    repository.git("checkout", "-q", "--detach")
    good("git", "-C", other, "checkout", "-q", "main")
    (other / "match" / "config.toml").write_text("hp = = 3")
    refused = run("git", "-C", other, "commit", "-q", "-a", "-m", "broken")
    assert (refused.status, "match/config.toml:1:6: this is no TOML" in refused.err) == (1, True)
    (other / "match" / "config.toml").write_text("hp = 4")
    good("git", "-C", other, "commit", "-q", "-a", "-m", "right")
    becomes(lambda: in_force(store), (2, {"hp": 4}))


def test_hooks_that_could_not_work_are_not_installed(made, store, tmp_path):
    repository = made("bare")
    assert hook(repository, store, "--branch", "refs/heads/main").status == 0
    assert "--branch=main" in (repository.where / "hooks" / "pre-receive").read_text()
    inside("hook", "git", repository.where, "--remove")
    for url, option, said in (
        (store, ("--branch", "no branch"), "is no name of a branch"),
        ("etcd://10.0.0.1:2379/config?ca=ca.pem", (), "ca=ca.pem must be an absolute path"),
    ):
        refused = hook(repository, url, *option)
        assert (refused.status, said in refused.err) == (1, True), refused.err
    good("git", "--git-dir", repository.where, "config", "core.hooksPath", tmp_path / "everybody's")
    refused = hook(repository, store)
    assert (refused.status, "core.hooksPath" in refused.err) == (1, True)
    assert not (tmp_path / "everybody's").exists()
    good("git", "--git-dir", repository.where, "config", "core.hooksPath", "own hooks")
    assert hook(repository, store).status == 0
    assert (repository.where / "own hooks" / "post-receive").exists()


@needs_svn
def test_names_that_look_like_options_are_names(made, store):
    repository = made("svn")
    install(repository, store)
    done = repository.try_commit({"match/config.toml": "hp = 1", "--revprop/config.toml": "a = 1"})
    assert (done.status, "'--revprop' is no name of a module" in done.err) == (1, True)
    assert repository.newest() == "r0"


@needs_svn
def test_a_directory_of_modules_that_is_copied_is_checked(made, store):
    repository = made("svn")
    repository.commit({"draft/match/config.toml": "hp = = 1", "live/README": "nothing yet"})
    install(repository, store, "--path", "live/config")
    url = f"file://{repository.where}"
    refused = run("svn", "copy", "-m", "live", f"{url}/draft", f"{url}/live/config")
    assert (refused.status, "match/config.toml:1:6: this is no TOML" in refused.err) == (1, True)
    repository.commit({"draft/match/config.toml": "hp = 1"})
    assert run("svn", "copy", "-m", "live", f"{url}/draft", f"{url}/live/config").status == 0
    becomes(lambda: in_force(store), (1, {"hp": 1}))
