"""Publishing: the revisions of a repository, in their order, become releases in a store.

For each module it begins after the revision that the module's last release was made from, and so makes up for every
call that was lost. Revisions that touch several modules publish them in one step. Everything can be called again at any
time, also by two at once: what is published already is not published twice, since the store takes a release only while
the module is as it was when that was looked up.

What a revision changes is refused as a whole if a fault is in any part of it. A later revision that touches one of
these modules is its correction, and publishes them all; if there is none, the refusal is raised at the end. Other
modules are not held up by it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.config import rollout
from hotfd.config.release import MAX_MODULES, NAME, Release, seal, unseal
from hotfd.errors import ConfigError, Conflict, Fault, ReleaseRefused, StoreError
from hotfd.publish import compile as compiling
from hotfd.publish.check import check
from hotfd.publish.faults import RevisionRefused, short
from hotfd.publish.repository import MAX_PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hotfd.config.release import Head, Sealed
    from hotfd.config.rollout import For, Step
    from hotfd.publish.compile import Committed, Runner
    from hotfd.publish.rehearsal import Releases
    from hotfd.publish.repository import Commit, Repository

MAX_CONFLICTS: Final = 20
"""Times that somebody else may be quicker before this gives up: each time, somebody has published."""

MAX_LINE: Final = 1024
"""Characters of an author or a note that a release can hold."""


@dataclass(frozen=True, slots=True)
class Published:
    """One release that was made, or would be.

    Attributes:
        module: of which module.
        version: its version.
        revision: the revision that it was made from.
        batch: the id of the step that published it with others; empty if it was alone.
        canary: whether it is in force for some only.
        note: the first line of the commit's message.
    """

    module: str
    version: int
    revision: str
    batch: str
    canary: bool
    note: str


@dataclass(frozen=True, slots=True)
class _Last:
    """What was published last from the repository: the revision, and the release as it was made then."""

    revision: str
    release: Release


@dataclass(slots=True)
class _Plan:
    """What there is to do.

    Attributes:
        revisions: in order, each with the modules that it touches.
        last: by module, what was published last from the repository.
        heads: by module, the head that this plan holds for: when it is another one, somebody has published some of this.
        complete: whether these are all revisions that there are.
    """

    revisions: list[tuple[str, list[str]]]
    last: dict[str, _Last | None]
    heads: dict[str, Head]
    complete: bool


class Publisher:
    """Publishes from one repository into one store.

    Args:
        repository: the repository.
        store: the store, or a :class:`~hotfd.publish.rehearsal.Rehearsal` of it.
        run: runs scripts.
        by: who publishes, for the history.
        modules: which modules; all if empty.
        canary: for whom the newest revision is at first; None for all. Those before it are for all.
        rewritten: take a history that does not hold what was published; the newest revision alone is published then.
        blind: the store is not known: what depends on the values in force is not carried out.
        note: told what is worth knowing, as a line.

    Attributes:
        published: what was published, in order, also when it ended with an error.
    """

    def __init__(
        self,
        repository: Repository,
        store: Releases,
        run: Runner,
        *,
        by: str,
        modules: Collection[str] = (),
        canary: For | None = None,
        rewritten: bool = False,
        blind: bool = False,
        note: Callable[[str], None],
    ) -> None:
        self._repository = repository
        self._store = store
        self._run = run
        # Whoever a web server has let in, say: what a head holds is text, and not endless.
        self._by = by.encode(errors="replace").decode()[:MAX_LINE]
        self._modules = set(modules)
        self._canary = canary
        self._rewritten = rewritten
        self._blind = blind
        self._note = note
        self._noted: set[str] = set()
        self.published: list[Published] = []

    async def publish(self, rev: str | None = None) -> list[Published]:
        """Publish what is committed and not published.

        Args:
            rev: up to which revision; None for the newest.

        Returns:
            what was published.

        Raises:
            RevisionRefused: the newest revision of some modules is not what can be published; others were.
            StoreError: the store cannot be read or written.
            ConfigError: the repository cannot be read, or its history was rewritten.
        """
        until = await asyncio.to_thread(self._repository.newest, rev)
        conflicts = 0
        while True:
            before = len(self.published)
            try:
                await self._carry_out(await self._plan(until))
                return self.published
            except Conflict:
                conflicts = conflicts + 1 if len(self.published) == before else 0
                if conflicts > MAX_CONFLICTS:
                    raise

    # What there is to do

    async def _plan(self, until: str) -> _Plan:
        present = await asyncio.to_thread(self._repository.modules, until)
        names = [name for name, entries in present.items() if compiling.is_module(name, entries)]
        if missing := self._modules - set(names):
            raise ConfigError(
                f"{self._repository.where}: at {short(until)} there is no module {', '.join(map(repr, sorted(missing)))}; "
                f"there are {', '.join(names) or 'none'}"
            )
        names = [name for name in names if not self._modules or name in self._modules]
        if len(names) > MAX_MODULES:
            raise ConfigError(
                f"{len(names)} modules; at most {MAX_MODULES} can be published at once: name some of them"
            )
        if not names:
            self._say(f"at {short(until)} there is no module: a directory with config.toml or instruction.toml in it")
        heads = await self._store.heads([name for name in names if NAME.fullmatch(name)])
        self._refuse_second_canary(heads.values())
        last = {name: await self._last(heads[name]) if name in heads else None for name in names}
        touching: dict[str, list[str]] = {}
        for name in names:
            for revision in await self._pending(name, last[name], until, heads.get(name)):
                touching.setdefault(revision, []).append(name)
        order = await asyncio.to_thread(self._repository.ordered, list(touching), until)
        complete = len(order) <= MAX_PENDING
        if not complete:
            self._say(f"more than {MAX_PENDING} revisions are to be published; these are the oldest, publish again")
            order = order[:MAX_PENDING]
        return _Plan([(revision, touching[revision]) for revision in order], last, dict(heads), complete)

    def _refuse_second_canary(self, heads: Iterable[Head]) -> None:
        # Before anything: revisions before the newest are for all, and would end it.
        for head in heads:
            if self._canary is not None and head.canary is not None:
                raise ConfigError(
                    f"module {head.module!r}: version {head.canary.version} is a canary already; promote or abort it first"
                )

    async def _last(self, head: Head) -> _Last | None:
        """Return what was last made of a revision: not what somebody has gone back to since."""
        # Of the releases and not of the history, which may have to wait while a directory's ledger is held.
        for version in range(head.last, 0, -1):
            release = (await self._store.release(head.module, version)).release
            if release.revision and not release.restores:
                return _Last(release.revision, release)
        return None

    async def _pending(self, module: str, last: _Last | None, until: str, head: Head | None) -> list[str]:
        """Return the revisions that are to be published of one module, oldest first."""
        repository = self._repository
        if last is None:
            return await asyncio.to_thread(repository.touching, module, None, until)
        relation = await asyncio.to_thread(repository.relation, last.revision, until)
        match relation:
            case "same":
                return []
            case "older":
                return await asyncio.to_thread(repository.touching, module, last.revision, until)
            case "newer":
                self._say(
                    f"module {module!r}: release {last.release.version} was made from {short(last.revision)}, which is "
                    f"newer than {short(until)}; to go back: hotfd config rollback {module}"
                )
                return []
            case "unrelated":
                committed = await self._committed(module, until)
                if committed.origin == last.release.origin:
                    return []
                if not self._rewritten:
                    raise ConfigError(
                        f"module {module!r}: the history of {repository.where} was rewritten: release "
                        f"{last.release.version} was made from {short(last.revision)}, which is no ancestor of "
                        f"{short(until)}; publish with --rewritten to accept"
                    )
                return await asyncio.to_thread(repository.touching, module, None, until)

    # Doing it

    async def _carry_out(self, plan: _Plan) -> None:
        origins = {module: last.release.origin if last is not None else "" for module, last in plan.last.items()}
        refused: list[RevisionRefused] = []
        for index, (revision, touched) in enumerate(plan.revisions):
            together = set(touched)
            for earlier in [one for one in refused if together & set(one.modules)]:
                refused.remove(earlier)
                together |= set(earlier.modules)
            newest = plan.complete and index == len(plan.revisions) - 1
            try:
                await self._publish_batch(
                    revision, sorted(together), origins, plan.heads, self._canary if newest else None
                )
            except RevisionRefused as refusal:
                refused.append(refusal)
        if len(refused) == 1:
            raise refused[0]
        if refused:
            faults = {module: found for one in refused for module, found in one.modules.items()}
            raise RevisionRefused(refused[-1].revision, faults)

    async def _publish_batch(
        self,
        revision: str,
        modules: list[str],
        origins: dict[str, str],
        heads: dict[str, Head],
        canary: For | None,
    ) -> None:
        faults: dict[str, list[Fault]] = {module: [] for module in modules}
        committed: dict[str, Committed] = {}
        for module in modules:
            try:
                one = await self._committed(module, revision)
            except ReleaseRefused as refusal:
                faults[module] = refusal.faults
                continue
            if one.origin and one.origin != origins.get(module):
                committed[module] = one
        commit = await asyncio.to_thread(self._repository.commit, revision)
        batch = secrets.token_hex(8) if len(committed) > 1 else ""
        steps: list[Step] = []
        for module, one in committed.items():
            try:
                sealed = await self._make(one, heads.get(module), commit, batch)
            except ReleaseRefused as refusal:
                faults[module] = refusal.faults
            else:
                if sealed is not None:
                    steps.append(rollout.publish(heads.get(module), sealed, by=self._by, canary=canary))
        if any(faults.values()):
            raise RevisionRefused(revision, faults)
        if steps:
            await self._store.commit(steps)
        for step in steps:
            assert step.release is not None
            release = step.release.release
            heads[release.module] = step.head
            origins[release.module] = release.origin
            self.published.append(
                Published(release.module, release.version, revision, batch, canary is not None, release.note)
            )

    async def _committed(self, module: str, revision: str) -> Committed:
        """Read a module's files at a revision; one without files has an empty ``origin``, and changes nothing."""

        def read() -> Committed:
            present = self._repository.modules(revision, module)
            entries = present.get(module, ())
            if not compiling.is_module(module, entries):
                return compiling.GONE
            chosen = compiling.select(module, entries)
            if chosen.faults:
                raise ReleaseRefused(module, chosen.faults)
            return compiling.read(module, chosen.wanted, self._repository.read(revision, module, chosen.wanted))

        return await asyncio.to_thread(read)

    async def _make(self, committed: Committed, head: Head | None, commit: Commit, batch: str) -> Sealed | None:
        """Make a release of what was committed and what is in force; None when that is not known."""
        module = committed.module
        if self._blind and not committed.alone:
            self._say(f"module {module!r}: its files can be read; what comes of them depends on the values in force")
            return None
        track = (head.canary or head.stable) if head is not None else None
        current = (await self._store.release(module, track.version, track.sha256)).release if track else None
        draft = await asyncio.to_thread(compiling.carry_out, committed, current, self._run)
        release = Release(
            module=module,
            version=rollout.next_version(head),
            revision=commit.revision[:MAX_LINE],
            author=commit.author[:MAX_LINE],
            time=commit.time,
            values=draft.values,
            zones=draft.zones,
            instruction=draft.instruction,
            note=commit.note[:MAX_LINE],
            batch=batch,
            origin=committed.origin,
        )
        checked = await asyncio.to_thread(check, release, await self._schemas(module), self._say)
        try:
            sealed = seal(checked)
            # Read again as a server will: what it could not read is found here.
            return unseal(sealed.data, sealed.sha256)
        except ConfigError as error:
            raise ReleaseRefused(module, [Fault("", "", str(error))]) from None

    async def _schemas(self, module: str) -> dict[str, bytes]:
        """Return what servers have declared; nothing when that cannot be read, which is said: servers check it, too."""
        try:
            return await self._store.schemas(module)
        except StoreError as error:
            self._say(f"module {module!r}: its values are not checked before servers get them: {error}")
            return {}

    def _say(self, line: str) -> None:
        """Note something, once."""
        if line not in self._noted:
            self._noted.add(line)
            self._note(line)
