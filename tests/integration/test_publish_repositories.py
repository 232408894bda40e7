"""Publishing from real repositories, by the command."""

import os
from urllib.parse import quote

import pytest

from tests.integration.repositories import KEEP, Git, Svn, asked, good, in_force, inside, needs_svn, publish, run, write


@pytest.fixture(params=["git", pytest.param("svn", marks=needs_svn)])
def repository(request, tmp_path):
    return Git(tmp_path) if request.param == "git" else Svn(tmp_path)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def releases(done):
    assert done.status == 0, done.err
    return [(one["module"], one["version"], one["revision"]) for one in done.json["releases"]]


def test_revisions_become_releases_in_their_order_and_none_is_lost(repository, store):
    repository.commit({"match/config.toml": "hp = 10\n[damage]\nsword = 5\n", "match/zones/eu-1.yaml": "hp: 20\n"})
    first = repository.commit({"shop/config.json": '{"tax": 0.1}', "unrelated": "x"}, "A shop\n\nat last")
    assert [one[:2] for one in releases(publish(repository.where, store))] == [("match", 1), ("shop", 1)]
    second = repository.commit({"match/instruction.toml": KEEP + "damage.sword = 12"}, "Sharper swords")
    third = repository.commit({"match/instruction.toml": KEEP + "speed = 3", "shop/config.json": '{"tax": 0.2}'})
    done = publish(repository.where, store)
    assert releases(done) == [("match", 2, second), ("match", 3, third), ("shop", 2, third)]
    assert releases(publish(repository.where, store)) == []
    assert in_force(store) == (3, {"hp": 10, "damage": {"sword": 12}, "speed": 3})
    match = asked(store, lambda opened: opened.release("match", 2)).release
    shop = asked(store, lambda opened: opened.release("shop", 1)).release
    assert match.zones == {"eu-1": {"hp": 20}}
    assert (match.note, match.revision) == ("Sharper swords", second)
    assert match.author in {"Ann <ann@example.org>", "ann"}
    assert match.time > 1_700_000_000
    assert (shop.revision, shop.note) == (first, "A shop")


def test_modules_may_be_anywhere_and_only_some_be_published(repository, store):
    repository.commit(
        {"live/config/match/config.toml": "a = 1", "live/config/shop/config.toml": "b = 1", "top/config.toml": ""}
    )
    path = ("--path", "live/config")
    assert [one[0] for one in releases(publish(repository.where, store, *path, "--module", "shop"))] == ["shop"]
    assert [one[0] for one in releases(publish(repository.where, store, *path))] == ["match"]
    assert publish(repository.where, store, "--path", "../x").status == 1
    missing = publish(repository.where, store, *path, "--module", "none")
    assert (missing.status, "there are match, shop" in missing.err) == (1, True)


def test_an_older_revision_can_be_published_first(repository, store):
    first = repository.commit({"match/config.toml": "a = 1"})
    repository.commit({"match/config.toml": "a = 2"})
    assert releases(publish(repository.where, store, "--rev", first)) == [("match", 1, first)]
    assert len(releases(publish(repository.where, store))) == 1
    late = publish(repository.where, store, "--rev", first)
    assert releases(late) == []
    assert "hotfd config rollback" in late.err
    nothing = publish(repository.where, store, "--rev", "nothing")
    assert (nothing.status, "nothing" in nothing.err) == (1, True)


def test_every_fault_of_every_module_is_printed_and_nothing_of_the_revision_published(repository, store):
    repository.commit({"match/config.toml": "hp = 10", "shop/config.toml": "tax = 1"})
    publish(repository.where, store)
    repository.commit(
        {
            "match/config.toml": "hp = = 10",
            "shop/config.toml": "tax = 2",
            "shop/config.json": b"x" * 50_000_000,
            "match/zones/eu.toml": "b = nan",
        }
    )
    done = publish(repository.where, store)
    assert done.status == 1
    assert done.json["releases"] == []
    text = "\n".join(done.json["refused"])
    for part in (
        "match/config.toml:1:6: this is no TOML",
        "match/zones/eu.toml: b is nan",
        "shop/config.json: the file has 50000000 bytes; at most 1048576",
        "one file of values, and not config.json and config.toml",
    ):
        assert part in text
        assert part in done.err
    assert in_force(store) == (1, {"hp": 10})


def test_values_are_checked_against_what_servers_have_declared(repository, store):
    schema = b'{"type":"object","properties":{"hp":{"type":"integer"}},"additionalProperties":false}'
    asked(store, lambda opened: opened.declare("match", "s1", schema))
    repository.commit({"match/config.toml": "hp = 'many'\nmp = 1\n"})
    done = publish(repository.where, store)
    assert (done.status, len(done.json["refused"])) == (1, 2)
    repository.commit({"match/config.toml": "hp = 3\n"})
    assert releases(publish(repository.where, store))[0][:2] == ("match", 1)
    assert asked(store, lambda opened: opened.release("match", 1)).release.schema == "s1"


def test_a_script_is_run_if_that_is_allowed(repository, store):
    script = (
        "#!/usr/bin/python3\nimport json, sys\nv = json.load(sys.stdin)\nv['hp'] = 2 * v['hp']\nprint(json.dumps(v))\n"
    )
    repository.commit({"match/config.toml": "hp = 10"})
    publish(repository.where, store)
    repository.commit({"match/instruction": script})
    done = publish(repository.where, store)
    assert (done.status, "--allow-scripts" in done.err) == (1, True)
    assert len(releases(publish(repository.where, store, "--allow-scripts"))) == 1
    assert in_force(store) == (2, {"hp": 20})


def test_a_canary_is_for_whom_it_was_asked_for(repository, store):
    repository.commit({"match/config.toml": "hp = 10"})
    publish(repository.where, store)
    repository.commit({"match/config.toml": "hp = 11"})
    publish(repository.where, store, "--canary", "zone=eu-1", "--canary", "5%")
    canary = asked(store, lambda opened: opened.heads())["match"].canary
    assert (canary.version, canary.zones, canary.share) == (2, ("eu-1",), 0.05)


def test_validate_says_what_publish_would_and_changes_nothing(repository, store):
    repository.commit({"match/config.toml": "hp = 10"})
    publish(repository.where, store)
    before = sorted(os.listdir(store))
    write(repository.files, {"match/config.toml": "hp = 11", "match/zones/eu.toml": "hp = = 1"})
    done = inside("validate", repository.files, "--store", f"dir:{store}")
    assert (done.status, "match/zones/eu.toml:1:6" in done.err) == (1, True)
    assert inside("validate", repository.where, "--store", f"dir:{store}").status == 0, "what is committed is right"
    write(repository.files, {"match/zones/eu.toml": "hp = 1"})
    done = inside("validate", repository.files, "--json")
    assert (done.status, [one["module"] for one in done.json["releases"]]) == (0, ["match"])
    assert inside("validate", repository.files / "nothing").status == 1
    assert in_force(store) == (1, {"hp": 10})
    assert sorted(os.listdir(store)) == before


def test_a_link_is_not_followed(repository, store):
    (repository.files / "match").mkdir()
    (repository.files / "match" / "config.toml").symlink_to("/etc/passwd")
    if repository.kind == "svn":
        good("svn", "add", "-q", "--force", ".", cwd=repository.files)
        good("svn", "commit", "-q", "-m", "x", cwd=repository.files)
    else:
        repository.commit({})
    for done in (publish(repository.where, store), inside("validate", repository.files)):
        assert (done.status, "and is a link" in done.err) == (1, True)


def test_a_store_that_cannot_be_written_is_told_and_the_next_call_publishes(repository, store, tmp_path):
    repository.commit({"match/config.toml": "hp = 10"})
    store.write_text("a file")
    done = publish(repository.where, store)
    assert done.status == 2
    assert str(store) in done.err
    store.unlink()
    assert len(releases(publish(repository.where, store))) == 1


def test_a_rewritten_git_history_is_refused_until_it_is_accepted(tmp_path, store):
    repository = Git(tmp_path, bare=False)
    repository.commit({"match/config.toml": "hp = 10"})
    old = repository.commit({"match/config.toml": "hp = 11"})
    publish(repository.where, store)
    repository.forget_last()
    new = repository.commit({"match/config.toml": "hp = 12"})
    done = publish(repository.where, store)
    assert done.status == 1
    assert f"was rewritten: release 1 was made from {old[:12]}, which is no ancestor of {new[:12]}" in done.err
    assert releases(publish(repository.where, store, "--rewritten")) == [("match", 2, new)]


def test_merges_count_when_they_are_merged(tmp_path, store):
    repository = Git(tmp_path, bare=False)
    repository.commit({"match/config.toml": "hp = 10", "shop/config.toml": "tax = 1"})
    publish(repository.where, store)
    repository.git("checkout", "-q", "-b", "side")
    repository.commit({"match/instruction.toml": KEEP + "sword = 1"})
    repository.commit({"match/instruction.toml": KEEP + "sword = 2"})
    repository.git("checkout", "-q", "main")
    between = repository.commit({"shop/config.toml": "tax = 2"})
    repository.git("merge", "-q", "--no-ff", "-m", "Swords", "side")
    merge = repository.newest()
    assert releases(publish(repository.where, store)) == [("shop", 2, between), ("match", 2, merge)]
    assert in_force(store) == (2, {"hp": 10, "sword": 2})


def test_what_is_no_repository_is_told(tmp_path, store):
    for where in (tmp_path / "nothing", tmp_path):
        done = publish(where, store)
        assert (done.status, str(where) in done.err) == (1, True)
    Git(tmp_path)
    done = publish(tmp_path / "config.git", store)
    assert (done.status, "no commit yet" in done.err) == (1, True)


@needs_svn
def test_a_subversion_repository_is_published_by_its_url_and_from_where_it_is_checked_out(tmp_path, store):
    repository = Svn(tmp_path)
    repository.commit({"a b/ü/match/config.toml": "hp = 10"})
    url = f"file://{repository.where}"
    assert len(releases(publish(url, store, "--path", "a b/ü"))) == 1
    repository.commit({"a b/ü/match/config.toml": "hp = 11"})
    assert len(releases(publish(repository.files, store, "--path", "a b/ü"))) == 1
    assert in_force(store) == (2, {"hp": 11})
    assert run("svnadmin", "verify", "-q", repository.where).status == 0


def test_what_was_published_and_then_merged_into_another_line_is_never_taken_back(tmp_path, store):
    repository = Git(tmp_path, bare=False)
    repository.commit({"match/config.toml": "hp = 1", "shop/config.toml": "tax = 1"})
    repository.git("checkout", "-q", "-b", "mine")
    repository.commit({"match/zones/eu.toml": "hp = 5"})
    beside = repository.commit({"shop/config.toml": "tax = 2"})
    repository.git("checkout", "-q", "main")
    repository.commit({"match/config.toml": "hp = 2"})
    repository.commit({"match/instruction": "#!/bin/sh\nexec /usr/bin/python3 -c 'import json,sys; v=json.load(sys.stdin); v[\"hp\"] *= 10; print(json.dumps(v))'\n"})  # fmt: skip
    publish(repository.where, store, "--rev", "HEAD^")
    publish(repository.where, store, "--allow-scripts")
    assert in_force(store) == (2, {"hp": 20})
    # As git pull does it for somebody who has committed something himself: what was published comes in from the side.
    repository.git("checkout", "-q", "mine")
    repository.git("merge", "-q", "--no-ff", "-m", "Pulled", "main")
    merge = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "-q", "-B", "main")
    after = repository.commit({"shop/config.toml": "tax = 3"})
    done = publish(repository.where, store, "--allow-scripts")
    assert releases(done) == [("shop", 2, beside), ("match", 3, merge), ("shop", 3, after)]
    match = [asked(store, lambda opened, v=v: opened.release("match", v)).release for v in (2, 3)]
    assert [one.values for one in match] == [{"hp": 20}, {"hp": 200}], "one run for each time that files changed"
    assert releases(publish(repository.where, store, "--allow-scripts")) == []


def test_a_shallow_clone_says_what_it_lacks(tmp_path, store):
    repository = Git(tmp_path, bare=False)
    repository.commit({"match/config.toml": "hp = 1"})
    publish(repository.where, store)
    repository.commit({"match/config.toml": "hp = 2"})
    repository.commit({"match/config.toml": "hp = 3"})
    shallow = tmp_path / "shallow"
    good("git", "clone", "-q", "--depth", "1", f"file://{repository.where}", shallow)
    done = publish(shallow, store)
    assert (done.status, "git fetch --unshallow" in done.err, "--rewritten" in done.err) == (1, True, False)
    good("git", "-C", shallow, "fetch", "-q", "--unshallow")
    assert len(releases(publish(shallow, store))) == 2


def test_a_repository_may_be_named_from_where_one_is(repository, store, monkeypatch):
    repository.commit({"match/config.toml": "hp = 1"})
    for place, where in ((repository.files, "."), (repository.files.parent, repository.files.name)):
        monkeypatch.chdir(place)
        assert publish(where, store).status == 0
    assert in_force(store) == (1, {"hp": 1})


def test_names_that_are_none_and_hidden_directories_hold_nothing_else_up(repository, store):
    repository.commit({".circleci/config.yml": "jobs: {}", "match/config.toml": "hp = 1"})
    assert [one[0] for one in releases(publish(repository.where, store))] == ["match"]
    repository.commit({("Müll" if repository.kind == "svn" else "Müll \x1b[31m") + "/config.toml": "a = 1"})
    done = publish(repository.where, store)
    assert (done.status, "is no name of a module" in done.err, "\x1b" in done.err) == (1, True, False)
    nowhere = inside("validate", repository.files, "--path", "nowhere")
    assert (nowhere.status, "nowhere cannot be read: No such file" in nowhere.err) == (1, True)


@needs_svn
def test_a_subversion_repository_may_have_any_path(tmp_path, store):
    directory = tmp_path / "a%41@b c"
    directory.mkdir()
    repository = Svn.__new__(Svn)
    repository.where, repository.files = directory / "config.svn", tmp_path / "checkout"
    good("svnadmin", "create", repository.where)
    good("svn", "checkout", "-q", f"file://{quote(str(repository.where))}", repository.files)
    repository.commit({"match/config.toml": "hp = 1"})
    assert len(releases(publish(repository.where, store))) == 1
