"""Publishing: which revisions become which releases, whatever was lost, refused, or done by somebody else meanwhile."""

import asyncio
import json

import msgspec
import pytest

from hotfd.config import rollout
from hotfd.config.release import MAX_RELEASE, decode_head, encode_head, seal
from hotfd.config.rollout import For
from hotfd.errors import ConfigError, Conflict, StoreError
from hotfd.publish.faults import RevisionRefused
from hotfd.publish.publisher import MAX_CONFLICTS, Publisher
from hotfd.publish.rehearsal import Rehearsal
from hotfd.publish.repository import MAX_PENDING, Commit, Entry
from hotfd.publish.undo import again


class History:
    """A repository in memory: a line of revisions, each a change of files over the one before."""

    where = "memory"

    def __init__(self):
        self.trees = []
        self.past = []

    def commit_files(self, **modules):
        """Add a revision that gives modules new files: ``match="a = 1"``, or a table of paths; None removes."""
        tree = dict(self.trees[-1]) if self.trees else {}
        for module, files in modules.items():
            if isinstance(files, str):
                files = {"config.toml": files}
            tree[module] = {path: text.encode() for path, text in (files or {}).items()}
        self.trees.append(tree)
        return f"r{len(self.trees)}"

    def rewrite(self, keep):
        """Forget all but the first revisions; those that come then have other names."""
        self.past += [None] * 100
        del self.trees[keep:]

    def _name(self, index):
        return f"r{index + 1}" if not self.past or index == 0 else f"n{index + 1}"

    def _index(self, name):
        names = [self._name(index) for index in range(len(self.trees))]
        return names.index(name) if name in names else None

    def newest(self, rev=None):
        return rev or self._name(len(self.trees) - 1)

    def modules(self, revision, only=None):
        tree = self.trees[self._index(revision)]
        return {
            module: tuple(Entry(path, len(data), "file", True, path) for path, data in files.items())
            for module, files in sorted(tree.items())
            if only in {None, module} and files
        }

    def read(self, revision, module, entries):
        return {one.path: self.trees[self._index(revision)][module][one.path] for one in entries}

    def commit(self, revision):
        return Commit(revision, "Ann", 1000.0 + self._index(revision), f"note of {revision}")

    def touching(self, module, after, until):
        last = self._index(until)
        touched = [
            index
            for index in range(last + 1)
            if self.trees[index].get(module) is not (self.trees[index - 1].get(module) if index else None)
        ]
        if after is None:
            return [self._name(index) for index in touched[-1:]]
        return [self._name(index) for index in touched if index > self._index(after)][: MAX_PENDING + 1]

    def ordered(self, revisions, until):
        return sorted(revisions, key=self._index)

    def relation(self, old, new):
        before, after = self._index(old), self._index(new)
        if before is None:
            return "unrelated"
        return "same" if before == after else "older" if before < after else "newer"


def scripts(script, current):
    """Stand for running a script: it is JSON, laid over the values in force, and counts its runs."""
    return current | json.loads(script.files["instruction"]) | {"runs": current.get("runs", 0) + 1}


class Shop:
    """A repository, a store, and somebody who publishes from one into the other."""

    def __init__(self):
        self.history = History()
        self.store = Rehearsal()
        self.notes = []

    def publisher(self, **options):
        store = options.pop("store", self.store)
        return Publisher(self.history, store, scripts, by="bob", note=self.notes.append, **options)

    async def publish(self, rev=None, **options):
        """Publish; return module and version of what was published."""
        return [(one.module, one.version) for one in await self.publisher(**options).publish(rev)]

    async def refused(self, rev=None, **options):
        """Publish, and return what was published before something was refused, and the refusal."""
        publisher = self.publisher(**options)
        with pytest.raises(RevisionRefused) as caught:
            await publisher.publish(rev)
        return [(one.module, one.version) for one in publisher.published], caught.value

    async def values(self, module="match"):
        head = (await self.store.heads())[module]
        return (await self.store.release(module, head.stable.version)).release.values


@pytest.fixture
def shop():
    return Shop()


def setting(**values):
    """Return the files of a module that changes some items and keeps the others."""
    return {"instruction.toml": "[set]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())}


async def test_the_first_release_is_that_of_the_newest_revision_and_the_next_call_does_nothing(shop):
    shop.history.commit_files(match="hp = 1")
    shop.history.commit_files(match="hp = 2")
    assert await shop.publish() == [("match", 1)]
    release = (await shop.store.release("match", 1)).release
    assert (release.values, release.revision, release.author, release.time, release.note) == (
        {"hp": 2},
        "r2",
        "Ann",
        1001.0,
        "note of r2",
    )
    assert await shop.publish() == []


async def test_calls_that_were_lost_are_made_up_for_one_by_one(shop):
    shop.history.commit_files(match="hp = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(sword=1))
    shop.history.commit_files(match=setting(bow=2))
    shop.history.commit_files(match=setting(axe=3))
    assert await shop.publish() == [("match", 2), ("match", 3), ("match", 4)]
    assert await shop.values() == {"hp": 1, "sword": 1, "bow": 2, "axe": 3}


async def test_modules_of_one_revision_are_published_in_one_step(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    shop.history.commit_files(shop="b = 2")
    shop.history.commit_files(match="a = 3", shop="b = 3")
    published = await shop.publisher().publish("r1")
    published += await shop.publisher().publish()
    assert [(one.module, one.version, one.revision) for one in published] == [
        ("match", 1, "r1"),
        ("shop", 1, "r1"),
        ("shop", 2, "r2"),
        ("match", 2, "r3"),
        ("shop", 3, "r3"),
    ]
    assert published[0].batch == published[1].batch != published[3].batch == published[4].batch
    assert published[2].batch == ""


async def test_one_fault_keeps_a_whole_revision_back_and_what_came_before_it_stays(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    await shop.publish()
    shop.history.commit_files(match="a = 2")
    shop.history.commit_files(match="a = = 3", shop="b = nan")
    published, refusal = await shop.refused()
    assert published == [("match", 2)]
    assert refusal.lines() == [
        "match/config.toml:1:5: this is no TOML: invalid value",
        "shop/config.toml: b is nan; expected a finite number",
    ]
    assert await shop.values() == {"a": 2}
    assert await shop.values("shop") == {"b": 1}


async def test_a_correction_publishes_everything_that_was_kept_back(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    await shop.publish()
    shop.history.commit_files(match="a = = 2", shop="b = 2")
    shop.history.commit_files(match="a = 3")
    published = await shop.publisher().publish()
    assert [(one.module, one.revision) for one in published] == [("match", "r3"), ("shop", "r3")]
    assert published[0].batch == published[1].batch
    assert await shop.values("shop") == {"b": 2}
    assert await shop.publish() == []


async def test_a_fault_does_not_hold_other_modules_up(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    await shop.publish()
    shop.history.commit_files(match="a = = 2")
    shop.history.commit_files(shop="b = 2")
    published, refusal = await shop.refused()
    assert published == [("shop", 2)]
    assert refusal.revision == "r2"
    published, _ = await shop.refused()
    assert published == [], "it is refused again, and nothing is published twice"


async def test_what_changes_no_file_of_the_module_makes_no_release(shop):
    shop.history.commit_files(match={"config.toml": "a = 1", "README": "one"})
    await shop.publish()
    shop.history.commit_files(match={"config.toml": "a = 1", "README": "two"})
    assert await shop.publish() == []


async def test_a_module_that_is_removed_keeps_its_last_release(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    await shop.publish()
    shop.history.commit_files(match=None)
    assert await shop.publish() == []
    shop.history.commit_files(match="a = 2")
    assert await shop.publish() == [("match", 2)]


async def test_after_a_rollback_only_what_is_new_is_published(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(bad=1))
    await shop.publish()
    head = (await shop.store.heads())["match"]
    first, last = [(await shop.store.release("match", version)).release for version in (1, 2)]
    back = seal(again(first, last, version=3, by="eve", time=5.0))
    await shop.store.commit([rollout.publish(head, back, by="eve", change="rolled-back")])
    assert await shop.publish() == []
    shop.history.commit_files(match=setting(good=2))
    assert await shop.publish() == [("match", 4)]
    assert await shop.values() == {"a": 1, "good": 2}


async def test_a_canary_is_of_the_newest_revision_alone_and_is_built_on(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(b=2))
    shop.history.commit_files(match=setting(c=3))
    await shop.publish(canary=For(("eu-1",), 0.05))
    head = (await shop.store.heads())["match"]
    assert (head.stable.version, head.canary.version, head.canary.zones, head.canary.share) == (2, 3, ("eu-1",), 0.05)
    shop.history.commit_files(match=setting(d=4))
    with pytest.raises(ConfigError, match="version 3 is a canary already"):
        await shop.publish(canary=For((), 0.5))
    await shop.publish()
    assert await shop.values() == {"a": 1, "b": 2, "c": 3, "d": 4}


async def test_what_an_aborted_canary_had_set_is_gone(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(b=2))
    await shop.publish(canary=For((), 0.5))
    await shop.store.commit([rollout.abort((await shop.store.heads())["match"], by="eve")])
    shop.history.commit_files(match=setting(c=3))
    await shop.publish()
    assert await shop.values() == {"a": 1, "c": 3}


async def test_a_rewritten_history_is_refused_until_somebody_accepts_it(shop):
    shop.history.commit_files(match="a = 1")
    shop.history.commit_files(match="a = 2")
    await shop.publish()
    shop.history.rewrite(1)
    shop.history.commit_files(match="a = 3")
    shop.history.commit_files(match="a = 4")
    with pytest.raises(ConfigError, match=r"release 1 was made from r2, which is no ancestor of n3; .* --rewritten"):
        await shop.publish()
    assert await shop.publish(rewritten=True) == [("match", 2)], "the newest alone"
    assert await shop.values() == {"a": 4}
    assert await shop.publish() == []


async def test_an_older_revision_than_the_published_one_changes_nothing(shop):
    shop.history.commit_files(match="a = 1")
    shop.history.commit_files(match="a = 2")
    await shop.publish()
    assert await shop.publish("r1") == []
    assert "hotfd config rollback" in shop.notes[0]


async def test_only_named_modules_are_published_and_an_unknown_name_is_an_error(shop):
    shop.history.commit_files(match="a = 1", shop="b = 1")
    assert await shop.publish(modules=["shop"]) == [("shop", 1)]
    with pytest.raises(ConfigError, match="there is no module 'mtch'; there are match, shop"):
        await shop.publish(modules=["mtch"])


async def test_publishing_needs_neither_history_nor_schemas_and_says_that_nothing_was_checked(shop):
    class Held(Rehearsal):
        async def history(self, module, *, limit=50, before=None):
            raise StoreError("ledger.sqlite is held")

        async def schemas(self, module):
            raise StoreError("ledger.sqlite is held")

    shop.store = Held()
    shop.history.commit_files(match="a = 1")
    assert await shop.publish() == [("match", 1)]
    shop.history.commit_files(match="a = 2")
    assert await shop.publish() == [("match", 2)]
    assert await shop.publish() == []
    assert (
        shop.notes == ["module 'match': its values are not checked before servers get them: ledger.sqlite is held"] * 2
    )


class Contended(Rehearsal):
    """A store in which somebody else is quicker: before a commit, ``meanwhile`` is called."""

    def __init__(self, behind, meanwhile):
        super().__init__(behind)
        self.meanwhile = meanwhile
        self.behind = behind

    async def commit(self, steps):
        await self.meanwhile()
        await self.behind.commit(steps)


async def test_two_who_publish_the_same_at_once_publish_it_once(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match={"instruction": '{"b": 2}'})

    async def meanwhile():
        await shop.publish()

    assert await shop.publish(store=Contended(shop.store, meanwhile)) == []
    assert await shop.values() == {"a": 1, "b": 2, "runs": 1}


async def test_what_somebody_else_changes_meanwhile_is_not_lost(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(b=2))
    quicker = [("x", 1), ("y", 2)]

    async def meanwhile():
        if quicker:
            key, value = quicker.pop()
            head = (await shop.store.heads())["match"]
            last = (await shop.store.release("match", head.stable.version)).release
            other = msgspec.structs.replace(last, version=head.last + 1, values=last.values | {key: value})
            await shop.store.commit([rollout.publish(head, seal(other), by="eve", change="rolled-back")])

    assert await shop.publish(store=Contended(shop.store, meanwhile)) == [("match", 4)]
    assert await shop.values() == {"a": 1, "x": 1, "y": 2, "b": 2}


async def test_who_is_never_quick_enough_gives_up(shop):
    shop.history.commit_files(match="a = 1")
    calls = []

    async def meanwhile():
        calls.append(1)
        raise Conflict("somebody else")

    with pytest.raises(Conflict):
        await shop.publish(store=Contended(shop.store, meanwhile))
    assert len(calls) == MAX_CONFLICTS + 1


async def test_a_store_that_fails_in_the_middle_loses_and_doubles_nothing(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match=setting(b=1))
    shop.history.commit_files(match={"instruction": '{"c": 1}'})

    class Failing(Contended):
        async def commit(self, steps):
            await self.behind.commit(steps)  # done, and the answer is lost
            raise StoreError("gone")

    with pytest.raises(StoreError):
        await shop.publish(store=Failing(shop.store, None))
    assert await shop.publish() == [("match", 3)]
    assert await shop.values() == {"a": 1, "b": 1, "c": 1, "runs": 1}


async def test_a_release_that_is_too_large_is_refused(shop):
    shop.history.commit_files(match={"config.json": json.dumps({"a": "x" * (MAX_RELEASE - 20)})})
    _, refusal = await shop.refused()
    assert "at most 1048576 can be published" in str(refusal)


async def test_more_revisions_than_are_published_at_once_are_published_bit_by_bit(shop):
    shop.history.commit_files(match="a = 0")
    await shop.publish()
    for number in range(1, MAX_PENDING + 3):
        shop.history.commit_files(match=f"a = {number}")
    assert len(await shop.publish()) == MAX_PENDING
    assert "publish again" in shop.notes[0]
    assert len(await shop.publish()) == 2
    assert await shop.values() == {"a": MAX_PENDING + 2}


async def test_a_rehearsal_changes_nothing_and_a_blind_one_judges_what_it_can(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match={"instruction.toml": 'unset = ["a", "b"]'}, shop="b = 1")
    _, refusal = await shop.refused(store=Rehearsal(shop.store))
    assert "b: no such key" in str(refusal)
    assert await shop.publish(store=Rehearsal(), blind=True) == [("shop", 1)]
    assert await shop.store.heads(["shop"]) == {}
    assert await shop.values() == {"a": 1}


async def test_what_somebody_else_publishes_between_two_looks_is_not_published_again(shop):
    shop.history.commit_files(match="a = 1")
    await shop.publish()
    shop.history.commit_files(match={"instruction": '{"b": 2}'})
    shop.history.commit_files(match={"instruction": '{"b": 3}'})
    publisher = shop.publisher()
    commit, seen = shop.history.commit, []

    def quicker(revision):
        """Somebody else publishes everything after this one has planned, and before it looks at the store again."""
        if not seen:
            seen.append(revision)
            asyncio.run(shop.publish())
        return commit(revision)

    shop.history.commit = quicker
    assert await publisher.publish() == []
    assert await shop.values() == {"a": 1, "b": 3, "runs": 2}


async def test_a_canary_is_not_of_a_revision_that_is_not_the_newest(shop, monkeypatch):
    monkeypatch.setattr("hotfd.publish.publisher.MAX_PENDING", 2)
    shop.history.commit_files(match="a = 0")
    await shop.publish()
    for number in range(1, 4):
        shop.history.commit_files(match=f"a = {number}")
    for versions in ([2, 3], [4]):
        published = await shop.publisher(canary=For((), 0.5)).publish()
        assert [(one.version, one.canary) for one in published] == [(version, version == 4) for version in versions]


async def test_whoever_publishes_is_written_so_that_a_head_can_hold_it(shop):
    shop.history.commit_files(match="a = 1")
    publisher = Publisher(shop.history, shop.store, scripts, by="\udcff" + "x" * 5000, note=shop.notes.append)
    await publisher.publish()
    head = (await shop.store.heads())["match"]
    assert decode_head(encode_head(head)) == head


async def test_hidden_directories_are_no_modules(shop):
    shop.history.commit_files(match="a = 1", **{".circleci": {"config.yml": "jobs: {}"}})
    assert await shop.publish() == [("match", 1)]
