"""A key-value server that speaks Redis's protocol, and is replaced while its clients stay connected.

    python examples/kv.py --listen 127.0.0.1:7379
    redis-cli -p 7379 set greeting hello
    redis-benchmark -p 7379 -t set,get,incr
    hotfd handoff --pid PID

The data belongs to the process and not to a connection, so the server is one with ``cutover="together"``: all
connections move in one moment, with the data, and no client ever reads what another has overwritten. What a
client has said about itself (its protocol, its name) is the state of its connection.

Answers and errors are those of Redis 7.0 (redis.io/docs/latest/commands), for strings in one database.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time

from kv_core import (
    COMMANDS,
    INT64_MAX,
    INT64_MIN,
    Client,
    Keys,
    command,
    execute,
    glob,
    integer,
    now_ms,
    refuse,
    text,
)

import hotfd
from hotfd.framing import resp

VERSION = b"7.0.0"
"""The version of Redis whose answers these are: clients ask for it to learn what a server can do."""

MAX_VALUE = 64 << 20
"""Bytes of a value. Redis allows 512 MiB, more than an example needs."""

MAX_REQUEST = MAX_VALUE + (1 << 20)
"""Bytes of a request: a value, and room for its key and for many short words instead."""

SWEEP_INTERVAL = 0.1
"""Seconds between two sweeps; those of Redis come as often (``hz 10``)."""

OK = resp.simple(b"OK")
SYNTAX = "ERR syntax error"

keys = Keys()
clients: dict[int, hotfd.Connection[Client]] = {}


class Quit(Exception):  # noqa: N818 - a wish of the client, and no fault
    """The client asked to be let go."""


# ---------------------------------------------------------------- values

UNITS = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}
"""The options of SET that give a time: how many milliseconds one is, and whether it counts from now."""


def end_of(amount: int, unit_ms: int, name: str, *, from_now: bool = True) -> int:
    """Return the end that a client means, in milliseconds of the wall clock."""
    end = amount * unit_ms + (now_ms() if from_now else 0)
    if not INT64_MIN <= end <= INT64_MAX:
        refuse(f"ERR invalid expire time in '{name}' command")
    return end


@command("set", arity=-3)
def set_(client: Client, words: list[bytes]) -> bytes:
    """Set the value of a key; EX, PX, EXAT, PXAT or KEEPTTL, NX or XX, and GET may follow."""
    if len(words) > 3:
        return set_with_options(client, words)
    keys.set(words[1], words[2])
    return OK


def set_with_options(client: Client, words: list[bytes]) -> bytes:
    """Carry out a SET that says more than key and value."""
    _, key, value, *options = words
    condition = when = amount = None
    returns_old = False
    rest = iter(options)
    for word in rest:
        option = word.upper()
        if option in (b"NX", b"XX") and condition in (None, option):
            condition = option
        elif option == b"GET":
            returns_old = True
        elif option in (*UNITS, b"KEEPTTL") and when in (None, option):
            when = option
            if option in UNITS and (amount := next(rest, None)) is None:
                refuse(SYNTAX)
        else:
            refuse(SYNTAX)
    end = None
    if amount is not None and when is not None:
        if (number := integer(amount)) <= 0:
            refuse("ERR invalid expire time in 'set' command")
        unit_ms, from_now = UNITS[when]
        end = end_of(number, unit_ms, "set", from_now=from_now)
    old = keys.get(key)
    done = condition is None or (old is None) == (condition == b"NX")
    if done:
        keys.values[key] = value
        if end is not None:
            keys.end_at(key, end)
        elif when is None:
            keys.ends.pop(key, None)
    if returns_old:
        return client.value(old)
    return OK if done else client.value(None)


@command("get", arity=2)
def get(client: Client, words: list[bytes]) -> bytes:
    """Return the value of a key."""
    return client.value(keys.get(words[1]))


@command("mset", arity=-3)
def mset(client: Client, words: list[bytes]) -> bytes:
    """Set several keys at once."""
    if len(words) % 2 == 0:
        refuse("ERR wrong number of arguments for 'mset' command")
    for key, value in zip(words[1::2], words[2::2], strict=True):
        keys.set(key, value)
    return OK


@command("mget", arity=-2)
def mget(client: Client, words: list[bytes]) -> bytes:
    """Return the values of several keys."""
    return resp.array(client.value(keys.get(key)) for key in words[1:])


@command("append", arity=3)
def append(client: Client, words: list[bytes]) -> bytes:
    """Append to the value of a key; return its length."""
    value = (keys.get(words[1]) or b"") + words[2]
    if len(value) > MAX_VALUE:
        refuse("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    keys.values[words[1]] = value
    return resp.integer(len(value))


@command("strlen", arity=2)
def strlen(client: Client, words: list[bytes]) -> bytes:
    """Return the length of a value in bytes."""
    return resp.integer(len(keys.get(words[1]) or b""))


@command("incr", "decr", arity=2)
@command("incrby", "decrby", arity=3)
def add(client: Client, words: list[bytes]) -> bytes:
    """Add to the number that a key holds, or subtract from it; its time to live stays."""
    amount = integer(words[2]) if len(words) == 3 else 1
    if words[0][:1] in b"dD":
        if amount == INT64_MIN:
            refuse("ERR decrement would overflow")
        amount = -amount
    value = keys.get(words[1])
    number = (integer(value) if value is not None else 0) + amount
    if not INT64_MIN <= number <= INT64_MAX:
        refuse("ERR increment or decrement would overflow")
    keys.values[words[1]] = b"%d" % number
    return resp.integer(number)


# ---------------------------------------------------------------- keys


@command("del", "unlink", arity=-2)
def delete(client: Client, words: list[bytes]) -> bytes:
    """Remove keys; return how many there were."""
    found = {key for key in words[1:] if keys.get(key) is not None}
    for key in found:
        keys.delete(key)
    return resp.integer(len(found))


@command("exists", arity=-2)
def exists(client: Client, words: list[bytes]) -> bytes:
    """Return how many of the keys exist; one that is named twice counts twice."""
    return resp.integer(sum(keys.get(key) is not None for key in words[1:]))


@command("type", arity=2)
def kind(client: Client, words: list[bytes]) -> bytes:
    """Return what kind of value a key has."""
    return resp.simple(b"string" if keys.get(words[1]) is not None else b"none")


@command("expire", "pexpire", arity=-3)
def expire(client: Client, words: list[bytes]) -> bytes:
    """Let a key expire in so many seconds, or milliseconds; NX, XX, GT or LT may say under which condition."""
    name, key = text(words[0]).lower(), words[1]
    conditions = {word.upper() for word in words[3:]}
    for word in words[3:]:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            refuse(f"ERR Unsupported option {text(word)}")
    if b"NX" in conditions and len(conditions) > 1:
        refuse("ERR NX and XX, GT or LT options at the same time are not compatible")
    if conditions >= {b"GT", b"LT"}:
        refuse("ERR GT and LT options at the same time are not compatible")
    end = end_of(integer(words[2]), 1000 if name == "expire" else 1, name)
    before = keys.ends.get(key)
    holds = {
        b"NX": before is None,
        b"XX": before is not None,
        b"GT": before is not None and end > before,  # no end is later than any end
        b"LT": before is None or end < before,
    }
    if keys.get(key) is None or not all(holds[condition] for condition in conditions):
        return resp.integer(0)
    keys.end_at(key, end)
    return resp.integer(1)


@command("ttl", "pttl", arity=2)
def ttl(client: Client, words: list[bytes]) -> bytes:
    """Return the seconds, or milliseconds, that a key has left: -1 for ever, -2 when there is no such key."""
    if keys.get(words[1]) is None:
        return resp.integer(-2)
    end = keys.ends.get(words[1])
    if end is None:
        return resp.integer(-1)
    left = max(end - now_ms(), 0)
    return resp.integer(left if words[0].lower() == b"pttl" else (left + 500) // 1000)


@command("persist", arity=2)
def persist(client: Client, words: list[bytes]) -> bytes:
    """Let a key stay for ever."""
    return resp.integer(keys.get(words[1]) is not None and keys.ends.pop(words[1], None) is not None)


@command("keys", arity=2)
def matching_keys(client: Client, words: list[bytes]) -> bytes:
    """Return the keys that match a pattern."""
    return resp.array(map(resp.bulk, keys.matching(words[1])))


@command("scan", arity=-2)
def scan(client: Client, words: list[bytes]) -> bytes:
    """Return the keys, those that match MATCH; all at once, which COUNT, being a hint, leaves open."""
    integer(words[1], "ERR invalid cursor")
    options = {b"MATCH": b"*", b"COUNT": b"1", b"TYPE": b"string"}
    rest = iter(words[2:])
    for word in rest:
        value = next(rest, None)
        if value is None or word.upper() not in options:
            refuse(SYNTAX)
        options[word.upper()] = value
    if integer(options[b"COUNT"]) < 1:
        refuse(SYNTAX)
    wanted = words[1] == b"0" and options[b"TYPE"].lower() == b"string"
    found = keys.matching(options[b"MATCH"]) if wanted else []
    return resp.array([resp.bulk(b"0"), resp.array(map(resp.bulk, found))])


@command("dbsize", arity=1)
def dbsize(client: Client, words: list[bytes]) -> bytes:
    """Return how many keys there are; expired ones that are not swept yet count, as in Redis."""
    return resp.integer(len(keys.values))


@command("flushall", "flushdb", arity=-1)
def flushall(client: Client, words: list[bytes]) -> bytes:
    """Remove all keys."""
    if len(words) > 1 and [word.upper() for word in words[1:]] not in ([b"SYNC"], [b"ASYNC"]):
        refuse(SYNTAX)
    keys.clear()
    return OK


# ---------------------------------------------------------------- the connection


@command("ping", arity=-1)
def ping(client: Client, words: list[bytes]) -> bytes:
    """Answer PONG, or what was said."""
    if len(words) > 2:
        refuse("ERR wrong number of arguments for 'ping' command")
    return resp.bulk(words[1]) if len(words) == 2 else resp.simple(b"PONG")


@command("echo", arity=2)
def echo(client: Client, words: list[bytes]) -> bytes:
    """Answer what was said."""
    return resp.bulk(words[1])


@command("quit", arity=-1)
def leave(client: Client, words: list[bytes]) -> bytes:
    """End the connection."""
    raise Quit


@command("select", arity=2)
def select(client: Client, words: list[bytes]) -> bytes:
    """Choose a database; there is one."""
    if integer(words[1]) != 0:
        refuse("ERR DB index is out of range")
    return OK


@command("hello", arity=-1)
def hello(client: Client, words: list[bytes]) -> bytes:
    """Choose the protocol, 2 or 3, and perhaps a name; answer who serves."""
    protocol, name = client.protocol, client.name
    if len(words) > 1:
        protocol = integer(words[1], "ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            refuse("NOPROTO unsupported protocol version")
        if len(words) == 4 and words[2].upper() == b"SETNAME":
            name = name_of(words[3])
        elif len(words) > 2:
            refuse(f"ERR Syntax error in HELLO option '{text(words[2])}'")
    client.protocol, client.name = protocol, name
    about = {
        b"server": resp.bulk(b"redis"),
        b"version": resp.bulk(VERSION),
        b"proto": resp.integer(protocol),
        b"id": resp.integer(client.id),
        b"mode": resp.bulk(b"standalone"),
        b"role": resp.bulk(b"master"),
        b"modules": resp.array([]),
    }
    return client.mapping((resp.bulk(field), value) for field, value in about.items())


def name_of(word: bytes) -> bytes:
    """Return a name that fits into the lines of CLIENT LIST."""
    if re.search(rb"[^!-~]", word):
        refuse("ERR Client names cannot contain spaces, newlines or special characters.")
    return word


@command("client", "config", arity=-2, has_subcommands=True)
@command("client|help", "config|help", "command|help", arity=2)
def subcommands(client: Client, words: list[bytes]) -> bytes:
    """Name the subcommands; HELP does."""
    prefix = text(words[0]).lower() + "|"
    found = sorted({entry.name for entry in COMMANDS.values() if entry.name.startswith(prefix)})
    return resp.array(resp.simple(name.replace("|", " ").upper()) for name in found)


@command("client|setname", arity=3)
def client_setname(client: Client, words: list[bytes]) -> bytes:
    """Give the connection a name."""
    client.name = name_of(words[2])
    return OK


@command("client|getname", arity=2)
def client_getname(client: Client, words: list[bytes]) -> bytes:
    """Return the connection's name."""
    return client.value(client.name or None)


@command("client|setinfo", arity=4)
def client_setinfo(client: Client, words: list[bytes]) -> bytes:
    """Take note of the client's library; nobody asks for it."""
    if words[2].upper() not in (b"LIB-NAME", b"LIB-VER"):
        refuse(f"ERR Unrecognized option '{text(words[2])}'")
    return OK


@command("client|id", arity=2)
def client_id(client: Client, words: list[bytes]) -> bytes:
    """Return the connection's number, which stays the same across handoffs."""
    return resp.integer(client.id)


@command("client|info", arity=2)
def client_info(client: Client, words: list[bytes]) -> bytes:
    """Describe the connection."""
    return client.text(client.line(clients[client.id]))


@command("client|list", arity=2)
def client_list(client: Client, words: list[bytes]) -> bytes:
    """Describe all connections, one a line."""
    return client.text(b"".join(conn.state.line(conn) for _, conn in sorted(clients.items())))


# ---------------------------------------------------------------- the server

SETTINGS = {
    b"appendonly": b"no",
    b"databases": b"1",
    b"proto-max-bulk-len": b"%d" % MAX_VALUE,
    b"save": b"",
}
"""What clients ask for: redis-benchmark prints the first and the last."""


@command("config|get", arity=-3)
def config_get(client: Client, words: list[bytes]) -> bytes:
    """Return the settings whose names match."""
    patterns = [glob(word.lower()) for word in words[2:]]
    found = [name for name in SETTINGS if any(pattern.fullmatch(name) for pattern in patterns)]
    return client.mapping((resp.bulk(name), resp.bulk(SETTINGS[name])) for name in found)


@command("command", arity=-1, has_subcommands=True)
@command("command|docs", arity=-2)
def command_docs(client: Client, words: list[bytes]) -> bytes:
    """Describe the commands; redis-cli shows it as help while one types."""
    wanted = {word.lower() for word in words[2:]}
    described = []
    for name, entry in sorted(COMMANDS.items()):
        if name.islower() and b"|" not in name and (not wanted or name in wanted):
            about = {b"summary": (entry.run.__doc__ or "").encode(), b"since": VERSION, b"group": b"generic"}
            fields = client.mapping((resp.bulk(field), resp.bulk(value)) for field, value in about.items())
            described.append((resp.bulk(name), fields))
    return client.mapping(described)


@command("command|count", arity=2)
def command_count(client: Client, words: list[bytes]) -> bytes:
    """Return how many commands there are."""
    return resp.integer(sum(name.islower() and b"|" not in name for name in COMMANDS))


@command("info", arity=-1)
def info(client: Client, words: list[bytes]) -> bytes:
    """Describe the server; the numbers are those of the service, and go on across handoffs."""
    sections: dict[str, dict[str, object]] = {
        "Server": {
            "redis_version": text(VERSION),
            "redis_mode": "standalone",
            "process_id": os.getpid(),
            "uptime_in_seconds": int(time.time()) - keys.started,
        },
        "Clients": {"connected_clients": len(clients)},
        "Stats": {
            "total_connections_received": keys.connections,
            "total_commands_processed": keys.commands,
        },
        "Keyspace": {"db0": f"keys={len(keys.values)},expires={len(keys.ends)}"} if keys.values else {},
    }
    wanted = {text(word).lower() for word in words[1:]} - {"all", "default", "everything"}
    shown = [
        f"# {name}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields.items())
        for name, fields in sections.items()
        if not wanted or name.lower() in wanted
    ]
    return client.text("\r\n".join(shown).encode())


async def serve(conn: hotfd.Connection[Client]) -> None:
    """Serve one client."""
    client = conn.state
    if not conn.resumed:
        keys.connections += 1
        client.id, client.since = keys.connections, int(time.time())
    clients[client.id] = conn
    try:
        async for request in conn:
            if words := resp.command(request):
                keys.commands += 1
                await conn.write(execute(client, words))
    except Quit:
        await conn.write(OK)
    except hotfd.FramingError as error:
        await conn.write(resp.error(f"ERR Protocol error: {error}"))
    finally:
        del clients[client.id]


def sweep_regularly() -> None:
    """Remove expired keys, now and every ``SWEEP_INTERVAL`` from now on."""
    keys.sweep()
    asyncio.get_running_loop().call_later(SWEEP_INTERVAL, sweep_regularly)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:7379", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    arguments = parser.parse_args()
    hotfd.run(
        serve,
        listen=arguments.listen,
        framing=hotfd.Resp(max_size=MAX_REQUEST),
        state=Client,
        name="kv",
        loop=arguments.loop,
        cutover="together",
        on_start=sweep_regularly,
        export_state=keys.export,
        import_state=keys.take,
    )
