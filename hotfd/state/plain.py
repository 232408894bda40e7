"""Values without parts that msgpack has no form for: times, decimals, identifiers, large integers, odd text.

Each has a function that takes it apart into atoms behind its tag and one that puts it together again. The second gets
whatever arrived: it checks types before it builds, and its caller turns the standard library's refusals into a fault.
"""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from hotfd.state import form
from hotfd.state.form import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

INT64_MIN: Final = -(2**63)
UINT64_MAX: Final = 2**64 - 1
"""msgpack's integers reach from the first to the second."""

Wire = tuple[Any, ...]


class Plain(NamedTuple):
    """How one such type is written and read."""

    type: type
    tag: int
    write: Callable[[Any], Wire]
    read: Callable[[list[Any]], Any]


def write_int(value: int) -> int | Wire:
    """Return an integer as an atom where msgpack can hold it, else by its bytes."""
    if INT64_MIN <= value <= UINT64_MAX:
        return value
    return (form.INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def write_str(value: str) -> str | Wire:
    """Return text as an atom where it is valid Unicode, else by its bytes: a lone surrogate has no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return (form.STR, value.encode("utf-8", "surrogatepass"))
    return value


def read_plain(wire: list[Any]) -> Any:
    """Put together what one of this module's functions took apart.

    Raises:
        Fault: the parts are not those of a value.
    """
    plain = BY_TAG[wire[0]]
    try:
        return plain.read(wire[1:])
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError):
        # The library's own words are left out: they quote the value.
        raise Fault(f"is no {form.type_name(plain.type)}") from None


def _integers(parts: list[Any], count: int) -> list[int]:
    if len(parts) != count or {*map(type, parts)} != {int}:
        raise ValueError
    return parts


def _one(parts: list[Any], kind: type) -> Any:
    if len(parts) != 1 or type(parts[0]) is not kind:
        raise ValueError
    return parts[0]


def _write_zone(zone: tzinfo | None) -> Wire | None:
    if zone is None:
        return None
    kind = type(zone)
    if kind is timezone:
        return _write_timezone(zone)
    if kind is ZoneInfo:
        return _write_zoneinfo(zone)
    raise Fault(
        f"has a tzinfo of type {form.type_name(kind)}, which cannot travel; use datetime.timezone or zoneinfo.ZoneInfo"
    )


def _read_zone(wire: Any) -> tzinfo | None:
    if wire is None:
        return None
    if type(wire) is not list or not wire or wire[0] not in (form.TIMEZONE, form.ZONEINFO):
        raise ValueError
    zone: tzinfo = read_plain(wire)
    return zone


def _write_timezone(zone: Any) -> Wire:
    # The only way to tell a name that was given from one that is derived; it is what copy and pickle use.
    offset, *name = zone.__getinitargs__()
    return (
        form.TIMEZONE,
        offset.days,
        offset.seconds,
        offset.microseconds,
        write_str(name[0]) if name else None,
    )


def _read_timezone(parts: list[Any]) -> timezone:
    offset = timedelta(*_integers(parts[:3], 3))
    (name,) = parts[3:]
    if name is None:
        return timezone(offset)
    if type(name) is list and name and name[0] == form.STR:
        name = read_plain(name)
    if type(name) is not str:
        raise ValueError
    return timezone(offset, name)


def _write_zoneinfo(zone: Any) -> Wire:
    if zone.key is None:
        raise Fault("has a ZoneInfo without a key, which no other process can look up")
    return (form.ZONEINFO, zone.key)


def _write_datetime(value: datetime) -> Wire:
    return (
        form.DATETIME,
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.fold,
        _write_zone(value.tzinfo),
    )


def _read_datetime(parts: list[Any]) -> datetime:
    *numbers, zone = parts
    *moment, fold = _integers(numbers, 8)
    return datetime(*moment, tzinfo=_read_zone(zone), fold=fold)  # type: ignore[arg-type, misc]  # seven integers


def _write_time(value: time) -> Wire:
    zone = _write_zone(value.tzinfo)
    return (form.TIME, value.hour, value.minute, value.second, value.microsecond, value.fold, zone)


def _read_time(parts: list[Any]) -> time:
    *numbers, zone = parts
    *moment, fold = _integers(numbers, 5)
    return time(*moment, tzinfo=_read_zone(zone), fold=fold)  # type: ignore[arg-type, misc]  # four integers


def _write_uuid(value: uuid.UUID) -> Wire:
    return (form.UUID, value.bytes, value.is_safe.value)


def _read_uuid(parts: list[Any]) -> uuid.UUID:
    data, safe = parts
    return uuid.UUID(bytes=_one([data], bytes), is_safe=uuid.SafeUUID(safe))


def _read_complex(parts: list[Any]) -> complex:
    real, imaginary = parts
    return complex(_one([real], float), _one([imaginary], float))


def _read_nothing(parts: list[Any]) -> msgspec.UnsetType:
    if parts:
        raise ValueError
    return msgspec.UNSET


PLAIN: Final[tuple[Plain, ...]] = (
    Plain(
        bytearray,
        form.BYTEARRAY,
        lambda value: (form.BYTEARRAY, value),
        lambda parts: bytearray(_one(parts, bytes)),
    ),
    Plain(
        complex,
        form.COMPLEX,
        lambda value: (form.COMPLEX, value.real, value.imag),
        _read_complex,
    ),
    Plain(datetime, form.DATETIME, _write_datetime, _read_datetime),
    Plain(
        date,
        form.DATE,
        lambda value: (form.DATE, value.year, value.month, value.day),
        lambda parts: date(*_integers(parts, 3)),
    ),
    Plain(time, form.TIME, _write_time, _read_time),
    Plain(
        timedelta,
        form.TIMEDELTA,
        lambda value: (form.TIMEDELTA, value.days, value.seconds, value.microseconds),
        lambda parts: timedelta(*_integers(parts, 3)),
    ),
    Plain(timezone, form.TIMEZONE, _write_timezone, _read_timezone),
    Plain(ZoneInfo, form.ZONEINFO, _write_zoneinfo, lambda parts: ZoneInfo(_one(parts, str))),
    # str() of a Decimal is exact: signs, exponents, signalling NaNs and their payloads come back.
    Plain(
        Decimal,
        form.DECIMAL,
        lambda value: (form.DECIMAL, str(value)),
        lambda parts: Decimal(_one(parts, str)),
    ),
    Plain(uuid.UUID, form.UUID, _write_uuid, _read_uuid),
    Plain(msgspec.UnsetType, form.MSGSPEC_UNSET, lambda _: (form.MSGSPEC_UNSET,), _read_nothing),
)

# Only met on reading; on writing, write_int and write_str decide.
_ODD: Final = (
    Plain(
        int,
        form.INT,
        lambda value: (value,),
        lambda parts: int.from_bytes(_one(parts, bytes), "big", signed=True),
    ),
    Plain(
        str,
        form.STR,
        lambda value: (value,),
        lambda parts: _one(parts, bytes).decode("utf-8", "surrogatepass"),
    ),
)

BY_TAG: Final[dict[int, Plain]] = {plain.tag: plain for plain in (*PLAIN, *_ODD)}
