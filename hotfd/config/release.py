"""Releases and heads: what is published, and which of it is in force.

A release is immutable and known by module, version and SHA-256. What a module's servers should run is its **head**: a
small record with a number that only grows. Everything that changes a module (a publish, a canary, its end) is a
new head, and an **event** of the module's history with the same number.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from hotfd.errors import ConfigError

MAX_RELEASE: Final = 1 << 20
"""Bytes of an encoded release: etcd takes requests of 1.5 MiB, and every server holds some releases in memory."""

MAX_MODULES: Final = 64
"""Modules of one server, and of one publish."""

MAX_ZONES: Final = 256
"""Zones of a release that have values of their own."""

MAX_VERSION: Final = 1 << 53
"""Above every version and sequence: JSON numbers are exact below it everywhere."""

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
"""Names of modules and zones: they are parts of paths, keys and command lines."""

Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME.pattern}\Z", max_length=64)]
Version = Annotated[int, msgspec.Meta(ge=0, lt=MAX_VERSION)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Line = Annotated[str, msgspec.Meta(max_length=1024)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Values = dict[str, Any]

Change = Literal["published", "canary", "promoted", "aborted", "halted", "rolled-back"]
"""What made a head: a release for all; a release for some; those some became all; it was taken back by a person; by
itself, since a server refused it; old values were published again."""


class Instruction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was done with the committed values to make a release's; carried out once, when it was published.

    Attributes:
        operation: ``replace`` takes the committed values alone; ``merge`` lays them over the values in force, table
            by table; ``keep`` takes those in force.
        unset: dotted keys that were removed then.
        set: dotted keys that were set then.
        script: SHA-256 of the script that made the values instead, or None.
    """

    operation: Literal["replace", "merge", "keep"] = "replace"
    unset: tuple[Line, ...] = ()
    set: dict[Line, Any] = {}
    script: Digest | None = None


class Release(msgspec.Struct, frozen=True, omit_defaults=True):
    """One immutable version of a module's configuration.

    Attributes:
        module: the module's name.
        version: 1 for the first, and one more for each that follows; 0 is the program's own values, never published.
        revision: the repository's revision that it was made from.
        author: who committed it.
        time: when that was, in seconds since the epoch.
        note: the first line of the commit's message.
        batch: an id that all modules have in common that were published in one step; they are staged together.
        origin: SHA-256 of the committed files: the same files are not published twice in a row.
        schema: the id of the schema that it was checked against when it was published; empty if there was none.
        instruction: what was done with the committed values.
        restores: the version whose values these are again, when somebody went back to them; else 0.
        values: the values, complete.
        zones: by zone, what is laid over the values there.
    """

    module: Name
    version: Version
    revision: Line
    author: Line
    time: float
    values: Values
    zones: Annotated[dict[Name, Values], msgspec.Meta(max_length=MAX_ZONES)] = {}
    instruction: Instruction = Instruction()
    note: Line = ""
    batch: Line = ""
    origin: Line = ""
    schema: Line = ""
    restores: Version = 0

    def values_in(self, zone: str) -> Values:
        """Return the values that hold in a zone."""
        overlay = self.zones.get(zone)
        return self.values if overlay is None else laid_over(self.values, overlay)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A release with its encoded form, by which it is known: ``sha256`` is the hexadecimal digest of ``data``."""

    release: Release
    data: bytes
    sha256: str


class Track(msgspec.Struct, frozen=True):
    """A release that is in force."""

    version: Version
    sha256: Digest


class Canary(Track, frozen=True, omit_defaults=True):
    """A release that is in force for some: for all sessions of these zones, and a share of the others' new sessions."""

    zones: tuple[Name, ...] = ()
    share: Share = 0.0


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a module's servers should run, and since when.

    Attributes:
        module: the module's name.
        sequence: 1 for the first head of the module, and one more for each that follows; a server never goes back.
        last: the highest version that was ever published.
        stable: what all run; None before the first release for all.
        canary: what some run instead.
        change: what made this head.
        by: who.
        time: when, in seconds since the epoch.
        reason: why, when it was no plain publish.
    """

    module: Name
    sequence: Annotated[int, msgspec.Meta(ge=1, lt=MAX_VERSION)]
    last: Version
    change: Change
    by: Line
    time: float
    stable: Track | None = None
    canary: Canary | None = None
    reason: Line = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a module's history: a head, with what people want to know of the release that it is about."""

    module: Name
    sequence: Annotated[int, msgspec.Meta(ge=1, lt=MAX_VERSION)]
    change: Change
    version: Version
    sha256: Digest
    by: Line
    time: float
    revision: Line = ""
    note: Line = ""
    reason: Line = ""
    restores: Version = 0


_encoder = msgspec.json.Encoder(order="sorted")
_release_decoder = msgspec.json.Decoder(Release)
_head_decoder = msgspec.json.Decoder(Head)


def seal(release: Release) -> Sealed:
    """Encode a release.

    Raises:
        ConfigError: it is larger than ``MAX_RELEASE`` bytes, or holds what JSON cannot, or what :func:`unseal` refuses.
    """
    try:
        data = _encoder.encode(release)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"module {release.module!r}: the values cannot be written as JSON: {error}") from None
    if len(data) > MAX_RELEASE:
        raise ConfigError(
            f"module {release.module!r}: a release of {len(data)} bytes; at most {MAX_RELEASE} can be published. "
            "Divide it into modules, or keep large data elsewhere and its name here"
        )
    try:
        _release_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:  # better here than in every server
        raise ConfigError(f"module {release.module!r}: nobody could read the release: {error}") from None
    return Sealed(release, data, hashlib.sha256(data).hexdigest())


def unseal(data: bytes, sha256: str | None = None) -> Sealed:
    """Read an encoded release.

    Args:
        data: the encoded form.
        sha256: the digest that it must have; None takes any.

    Raises:
        ConfigError: it is damaged, or no release.
    """
    if len(data) > MAX_RELEASE:
        raise ConfigError(f"a release of {len(data)} bytes; at most {MAX_RELEASE} are possible")
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise ConfigError(f"a release is damaged: its SHA-256 is {digest[:12]}... and should be {sha256[:12]}...")
    try:
        return Sealed(_release_decoder.decode(data), data, digest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"what should be a release cannot be read: {error}") from None


def encode_head(head: Head) -> bytes:
    """Return the encoded form of a head."""
    return _encoder.encode(head)


def decode_head(data: bytes) -> Head:
    """Read an encoded head.

    Raises:
        ConfigError: it is none.
    """
    try:
        return _head_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"what should be a head cannot be read: {error}") from None


def laid_over(below: Values, above: Values) -> Values:
    """Lay values over others, table by table; everything that is no table replaces what is there.

    Returns:
        a new table; neither argument is changed, and parts of both may be in it.
    """
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def check_name(name: str, what: str = "module") -> str:
    """Return a module's or zone's name if it is one.

    Raises:
        ConfigError: it is none.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a {what}: small letters, digits, '.', '_' and '-', at most 64")
    return name
