"""``hotfd config`` and its commands, on a directory store and beside others who change it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hotfd.cli import main
from hotfd.cli.config import status
from hotfd.cli.config.changing import ATTEMPTS
from hotfd.cli.config.group import COMMANDS
from hotfd.cli.config.options import STORE, complete_module, operator
from hotfd.config import rollout
from hotfd.config.open import open_store
from hotfd.config.store import Acknowledgement
from hotfd.errors import Conflict, StoreError
from tests.unit import config_reports
from tests.unit.control_fakes import hear_control_c, serving

ROOT = Path(__file__).parents[2]
ANSI = "\x1b"


@pytest.fixture
def url(tmp_path, monkeypatch):
    url = f"dir:{tmp_path / 'store'}"
    monkeypatch.setenv(STORE, url)
    return url


def hotfd(*words):
    """Run a command in this process; return its exit status, stdout and stderr."""
    done = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def config(*words):
    return hotfd("config", *words)


def answered(*words):
    code, out, err = config(*words, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def publish(url, *args, **fields):
    return asyncio.run(config_reports.publish(url, *args, **fields))


def with_store(url, work):
    async def whole():
        store = open_store(url)
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(whole())


def head_of(url, module="arena"):
    return with_store(url, lambda store: store.heads())[module]


def acknowledge(url, *reports):
    fresh = [
        Acknowledgement(**{name: getattr(r, name) for name in r.__struct_fields__} | {"time": time.time()})
        for r in reports
    ]
    with_store(url, lambda store: store.acknowledge(fresh))


def report(version, state="running", *, sequence, **fields):
    return config_reports.report(version, state, sequence=sequence, **fields)


# -- the group -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_is_in_the_reference(name):
    code, out, _ = config(name, "--help")
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert code == 0
    assert re.search(rf"^    hotfd config {name}\b", reference, re.MULTILINE)
    missing = [option for option in re.findall(r"--[a-z-]+", out) if option not in reference]
    assert not missing, f"not in docs/cli.md: {missing}"


def test_the_group_alone_lists_its_commands():
    code, out, err = config()
    assert code == 2
    assert all(f"  {name} " in out + err for name in COMMANDS)


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant():
    code, _, err = config("rolback", "arena")
    assert code == 2
    assert "There is no command 'rolback'. Did you mean rollback?" in err


def test_no_command_loads_an_event_loop_before_it_runs():
    program = (
        "import importlib, sys; from hotfd.cli.config.group import COMMANDS\n"
        "for name in ('status', 'history', 'show', 'diff', 'rollback', 'promote', 'abort'):\n"
        "    importlib.import_module(COMMANDS[name])\n"
        "print([name for name in sys.modules if name in ('asyncio', 'sqlite3', 'aiohttp')"
        " or name.startswith(('hotfd.config', 'hotfd.publish', 'hotfd.server', 'hotfd.app'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_shell_completes_commands_options_and_modules(url, monkeypatch):
    publish(url, {}, module="arena")
    publish(url, {}, module="shop")
    monkeypatch.setenv("_HOTFD_COMPLETE", "bash_complete")

    def completed(line):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        return CliRunner().invoke(main, [], prog_name="hotfd").stdout.split()

    assert completed("hotfd config prom") == ["plain,promote"]
    assert completed("hotfd config show a") == ["plain,arena"]
    assert completed("hotfd config status --module ") == ["plain,arena", "plain,shop"]
    assert "plain,--reason" in completed("hotfd config abort --")
    monkeypatch.setenv(STORE, "dir:/nowhere")
    assert completed("hotfd config show a") == []


def test_modules_of_a_store_that_is_named_on_the_line_are_completed(url, monkeypatch):
    publish(url, {})
    monkeypatch.delenv(STORE)
    context = click.Context(click.Command("x"))
    assert complete_module(context, context, "") == []
    context.params["store_url"] = url
    assert [item.value for item in complete_module(context, context, "")] == ["arena"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "arena", "--store", "foo:x"), 2, "is no store"),
        (("show", "arena", "--store", "dir:/nowhere/at/all"), 2, "/nowhere/at/all"),
        (("show", "NO NAME"), 2, "is no name of a module"),
        (("show", "arena", "--zone", "EU"), 2, "is no name of a zone"),
        (("show", "shop"), 1, "nothing was ever published of module 'shop'"),
        (("history", "shop"), 1, "nothing was ever published of module 'shop'"),
        (("show", "arena", "--version", "9"), 1, "has no version 9; the newest is 1"),
        (("diff", "arena"), 1, "nothing in force before"),
        (("rollback", "arena"), 1, "had nothing in force before that"),
        (("rollback", "arena", "--to", "1"), 1, "version 1 is in force already"),
        (("promote", "arena"), 1, "no canary is going on"),
        (("abort", "arena"), 1, "no canary is going on"),
        (("status", "--json", "--metrics"), 2, "--json or --metrics"),
        (("status", "--pid", "1", "--check"), 2, "go with --json and --metrics alone"),
        (("status", "--pid", "1", "--store", "dir:/x"), 2, "go with --json and --metrics alone"),
        (("status", "--wait", "nan"), 2, "must be 0 or more"),
        (("status", "--module", "NO NAME"), 2, "is no name of a module"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_status(url, words, code, said):
    publish(url, {"a": 1})
    done, out, err = config(*words)
    assert (done, out) == (code, "")
    assert said in err
    assert head_of(url).sequence == 1, "nothing was changed"


def test_a_store_must_be_named(monkeypatch):
    monkeypatch.delenv(STORE, raising=False)
    assert config("history", "arena")[0] == config("status")[0] == 2


def test_who_makes_a_change_is_noted_and_under_sudo_it_is_who_called_it(monkeypatch):
    monkeypatch.delenv("SUDO_USER", raising=False)
    host = socket.gethostname()
    assert operator() == f"{pwd.getpwuid(os.geteuid()).pw_name}@{host}"
    monkeypatch.setenv("SUDO_USER", "anna")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert operator() == f"anna@{host}"
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert operator() == f"1001@{host}", "only root may speak for others; and a user may have no name"


# -- looking ---------------------------------------------------------------------------------------


def test_history_tells_the_newest_changes_first(url):
    publish(url, {"a": 1}, note="first")
    publish(url, {"a": 2}, canary=rollout.For(("eu",)))
    assert config("abort", "arena", "--reason", "too strong")[0] == 0
    events = answered("history", "arena")["events"]
    assert [(e["sequence"], e["change"], e["version"]) for e in events] == [
        (3, "aborted", 2),
        (2, "canary", 2),
        (1, "published", 1),
    ]
    assert [e["sequence"] for e in answered("history", "arena", "--limit", 1)["events"]] == [3]
    lines = config("history", "arena")[1].splitlines()
    assert lines[1].endswith("too strong")
    assert lines[3].endswith("first")


def test_values_are_shown_by_key_for_all_and_as_they_hold_in_a_zone(url):
    publish(url, {"damage": {"sword": 10, "two.handed": 3}, "name": f"x{ANSI}[2J"}, {"eu": {"damage": {"sword": 9}}})
    _, out, _ = config("show", "arena")
    assert out.splitlines()[-6:] == [
        "damage.sword = 10",
        'damage."two.handed" = 3',
        'name = "x\\u001b[2J"',
        "",
        "in zone eu",
        "  damage.sword = 9",
    ]
    _, out, _ = config("show", "arena", "--zone", "eu")
    assert "damage.sword = 9" in out.splitlines()
    assert "in zone" not in out
    assert answered("show", "arena")["zones"] == {"eu": {"damage": {"sword": 9}}}
    shown = answered("show", "arena", "--zone", "eu")
    assert (shown["version"], shown["zone"], shown["values"]["damage"]) == (1, "eu", {"sword": 9, "two.handed": 3})
    assert "zones" not in shown


def test_what_is_shown_is_in_force_for_all_unless_another_version_is_named(url):
    publish(url, {"a": 1})
    publish(url, {"a": 2}, canary=rollout.For(("eu",)))
    assert answered("show", "arena")["values"] == {"a": 1}
    assert answered("show", "arena", "--version", 2)["values"] == {"a": 2}
    publish(url, {"b": 1}, module="shop", canary=rollout.For(("eu",)))
    assert "choose one with --version" in config("show", "shop")[2]


def test_without_versions_what_is_in_force_is_compared_with_what_was_before(url):
    for number in (1, 2, 3):
        publish(url, {"a": number, "same": True})
    assert config("diff", "arena") == (0, "arena: version 2 -> 3\n~ a = 2 -> 3\n", "")
    assert config("diff", "arena", 1)[1] == "arena: version 1 -> 3\n~ a = 1 -> 3\n"
    assert config("diff", "arena", 2, 1)[1] == "arena: version 2 -> 1\n~ a = 2 -> 1\n"
    publish(url, {"a": 4}, canary=rollout.For(("eu",)))
    assert answered("diff", "arena") == {
        "module": "arena",
        "from": 3,
        "to": 4,
        "zone": None,
        "changes": [
            {"key": "a", "kind": "changed", "old": 3, "new": 4},
            {"key": "same", "kind": "removed", "old": True, "new": None},
        ],
        "zones": {},
    }


def test_a_difference_is_an_exit_status_only_where_that_is_asked_for(url):
    publish(url, {"a": 1}, {"eu": {"a": 5}})
    publish(url, {"a": 1}, {"eu": {"a": 6}})
    assert config("diff", "arena", "--exit-code")[0] == 1
    assert config("diff", "arena", "--exit-code", "--json")[0] == 1
    assert config("diff", "arena", "--zone", "us", "--exit-code")[:2] == (
        0,
        "arena: version 1 -> 2 in zone us\nno difference\n",
    )
    assert answered("diff", "arena")["zones"] == {"eu": [{"key": "a", "kind": "changed", "old": 5, "new": 6}]}


# -- changing --------------------------------------------------------------------------------------


def test_going_back_publishes_the_values_of_before_as_a_new_version(url):
    publish(url, {"a": 1}, {"eu": {"a": 9}})
    publish(url, {"a": 2})
    code, out, _ = config("rollback", "arena", "--reason", "worse")
    assert (code, out) == (0, "arena: version 3 is in force, with the values of version 1\n")
    shown = answered("show", "arena")
    assert (shown["version"], shown["values"], shown["zones"]) == (3, {"a": 1}, {"eu": {"a": 9}})
    assert (shown["restores"], shown["revision"], shown["origin"]) == (1, "revision2", "origin2")
    event = answered("history", "arena")["events"][0]
    assert (event["change"], event["by"], event["reason"]) == ("rolled-back", operator(), "worse")


def test_going_back_twice_goes_back_two_versions_and_to_goes_forth_again(url):
    for number in (1, 2, 3):
        publish(url, {"a": number})
    assert answered("rollback", "arena") == {"module": "arena", "version": 4, "restores": 2, "sequence": 4}
    assert answered("rollback", "arena")["restores"] == 1
    assert "nothing in force before" in config("rollback", "arena")[2]
    assert answered("rollback", "arena", "--to", 3) == {"module": "arena", "version": 6, "restores": 3, "sequence": 6}
    assert answered("show", "arena")["values"] == {"a": 3}


def test_going_back_to_a_version_goes_on_while_somebody_holds_the_ledger(url, tmp_path, monkeypatch):
    for number in (1, 2, 3):
        publish(url, {"a": number})
    monkeypatch.setattr("hotfd.config.directory_ledger.BUSY", 0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "ledger.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        code, _, err = config("rollback", "arena")
        assert code == 2
        assert "With --to N, going back does not need the history" in err
        assert answered("rollback", "arena", "--to", 1)["restores"] == 1
        assert config("history", "arena")[0] == 2
    assert [event["sequence"] for event in answered("history", "arena")["events"]] == [4, 3, 2, 1]


def test_while_a_canary_is_going_on_one_does_not_go_back(url):
    publish(url, {"a": 1})
    publish(url, {"a": 2})
    publish(url, {"a": 3}, canary=rollout.For(("eu",)))
    code, _, err = config("rollback", "arena")
    assert code == 1
    assert "take that back first: hotfd config abort arena" in err
    assert head_of(url).sequence == 3


def test_a_canary_is_put_in_force_for_all(url):
    publish(url, {"a": 1})
    publish(url, {"a": 2}, canary=rollout.For(share=0.1))
    assert config("promote", "arena") == (0, "arena: version 2 is in force for all\n", "")
    head = head_of(url)
    assert (head.stable.version, head.canary, head.change, head.by) == (2, None, "promoted", operator())


def test_a_canary_is_taken_back(url):
    publish(url, {"a": 1}, canary=rollout.For(("eu",)))
    assert config("abort", "arena")[1] == "arena: version 1 was taken back; nothing is in force\n"
    publish(url, {"a": 2})
    publish(url, {"a": 3}, canary=rollout.For(("eu",)))
    assert answered("abort", "arena", "--reason", "no") == {"module": "arena", "version": 3, "stable": 2, "sequence": 5}
    assert head_of(url).reason == "no"


class Busy:
    """A store in which somebody else makes a change of his own right before each commit."""

    def __init__(self, store, others):
        self._store = store
        self._others = iter(others)

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit(self, steps):
        if (other := next(self._others, None)) is not None:
            await other(self._store)
        await self._store.commit(steps)


@pytest.fixture
def beside(url, monkeypatch):
    """Return what makes commands meet other people's changes."""
    opened = open_store

    def arrange(*others):
        monkeypatch.setattr("hotfd.config.open.open_store", lambda url, create=False: Busy(opened(url, create), others))

    return arrange


def other(change):
    async def carry_out(store):
        head = (await store.heads(["arena"]))["arena"]
        await store.commit([change(head)])

    return carry_out


def another_canary(values):
    async def carry_out(store):
        head = (await store.heads(["arena"]))["arena"]
        await store.commit([rollout.abort(head, by="bert")])
        await config_reports.publish(store.url, values, canary=rollout.For(("eu",)))

    return carry_out


def published(values):
    async def carry_out(store):
        await config_reports.publish(store.url, values)

    return carry_out


@pytest.mark.parametrize("command", ["promote", "abort"])
def test_a_canary_that_somebody_else_has_ended_or_replaced_meanwhile_is_left_alone(url, beside, command):
    publish(url, {"a": 1})
    publish(url, {"a": 2}, canary=rollout.For(("eu",)))
    beside(another_canary({"a": 3}))
    code, _, err = config(command, "arena")
    assert (code, head_of(url).canary.version) == (1, 3)
    assert "version 3 is the canary by now, and not version 2; nothing was changed" in err
    beside(other(lambda head: rollout.abort(head, by="bert")))
    code, _, err = config(command, "arena")
    assert (code, head_of(url).change) == (1, "aborted")
    assert "version 3 is no canary any more" in err


def test_one_does_not_go_back_from_what_somebody_else_has_published_meanwhile(url, beside):
    publish(url, {"a": 1})
    publish(url, {"a": 2})
    beside(published({"a": 3}))
    code, _, err = config("rollback", "arena")
    assert code == 1
    assert "somebody else put version 3 in force meanwhile; nothing was changed" in err
    assert head_of(url).stable.version == 3


def test_a_change_that_is_still_meant_is_made_in_spite_of_others(url, beside):
    publish(url, {"a": 1})
    publish(url, {"a": 2})

    async def a_canary_comes_and_goes(store):
        await config_reports.publish(store.url, {"a": 3}, canary=rollout.For(("eu",)))
        await other(lambda head: rollout.abort(head, by="bert"))(store)

    beside(a_canary_comes_and_goes)
    assert answered("rollback", "arena") == {"module": "arena", "version": 4, "restores": 1, "sequence": 5}
    assert answered("show", "arena")["revision"] == "revision3", "what was published last is done with"


def test_one_who_is_never_quick_enough_gives_up(url, monkeypatch):
    publish(url, {"a": 1})
    publish(url, {"a": 2}, canary=rollout.For(("eu",)))
    tried = []

    async def commit(store, steps):
        tried.append(steps)
        raise Conflict("somebody else was quicker")

    monkeypatch.setattr(type(open_store(url)), "commit", commit)
    code, _, err = config("promote", "arena")
    assert (code, len(tried)) == (1, ATTEMPTS)
    assert f"was changed by others {ATTEMPTS} times meanwhile" in err


def test_a_store_that_fails_on_the_way_leaves_it_open_whether_the_change_was_made(url, monkeypatch):
    publish(url, {"a": 1}, canary=rollout.For(("eu",)))

    async def commit(store, steps):
        raise StoreError("the connection was lost")

    monkeypatch.setattr(type(open_store(url)), "commit", commit)
    code, _, err = config("promote", "arena")
    assert code == 2
    assert "the connection was lost\nWhether it was carried out is not known: hotfd config history arena" in err


# -- status ----------------------------------------------------------------------------------------


def test_status_shows_what_every_server_has_made_of_it(url):
    publish(url, {"a": 1})
    publish(url, {"a": 2})
    acknowledge(
        url,
        report(2, sequence=2, pid=1, pinned={1: 3}),
        report(2, "refused", sequence=2, pid=2, faults=("a: expected a string",)),
        report(1, sequence=1, pid=3),
    )
    code, out, _ = config("status")
    assert code == 0
    assert "  for all   version 2" in out.splitlines()
    assert "    a: expected a string" in out.splitlines()
    assert "  1 of 3 servers have it; 1 refused it; 1 not yet" in out.splitlines()
    said = answered("status")
    assert not said["complete"]
    arena = said["modules"]["arena"]
    assert (arena["living"], arena["current"], arena["refused"]) == (3, 1, 1)
    assert {s["pid"]: s["standing"] for s in arena["servers"]} == {1: "current", 2: "refused", 3: "behind"}
    assert arena["servers"][0]["pinned"] == {"1": 3}
    assert arena["head"]["stable"]["version"] == 2
    assert 'hotfd_config_refused{module="arena"' in config("status", "--metrics")[1]


def test_status_shows_the_modules_that_are_asked_for_even_without_a_release(url):
    publish(url, {}, module="arena")
    publish(url, {}, module="shop")
    assert list(answered("status")["modules"]) == ["arena", "shop"]
    said = answered("status", "--module", "shop", "--module", "novel")["modules"]
    assert list(said) == ["shop", "novel"]
    assert said["novel"]["head"] is None


def test_a_check_fails_until_every_living_server_has_it(url):
    publish(url, {"a": 1})
    assert config("status", "--check")[0] == 0, "there is no server"
    assert config("status", "--check", "--module", "arena")[0] == 0
    assert config("status", "--check", "--module", "arean")[0] == 1, "there is no such module"
    acknowledge(url, report(1, sequence=1))
    assert config("status", "--check")[0] == 0
    publish(url, {"a": 2})
    assert config("status", "--check")[0] == 1
    assert config("status")[0] == 0
    acknowledge(url, report(2, "staged", sequence=2))
    assert config("status", "--check")[0] == 0


@pytest.fixture
def looks(monkeypatch):
    """Return the list of what happens between two looks of ``--wait``, one thing after another."""
    happenings = []
    looked = status.look

    async def look(store, modules):
        found = await looked(store, modules)
        if happenings:
            await happenings.pop(0)(store)
        return found

    monkeypatch.setattr(status, "look", look)
    monkeypatch.setattr(status, "LOOK_AGAIN", 0.01)
    return happenings


def acknowledged(*reports):
    async def carry_out(store):
        fresh = [
            Acknowledgement(**{n: getattr(r, n) for n in r.__struct_fields__} | {"time": time.time()}) for r in reports
        ]
        await store.acknowledge(fresh)

    return carry_out


def test_waiting_ends_when_the_last_server_has_it(url, looks):
    publish(url, {"a": 1})
    acknowledge(url, report(0, sequence=0, pid=1), report(0, sequence=0, pid=2))
    looks += [acknowledged(report(1, sequence=1, pid=1)), acknowledged(report(1, sequence=1, pid=2))]
    code, out, _ = config("status", "--wait", "600")
    assert (code, looks) == (0, [])
    assert "2 of 2 servers have it" in out


def test_waiting_ends_at_once_when_a_server_refuses(url, looks):
    publish(url, {"a": 1})
    acknowledge(url, report(0, sequence=0, pid=1), report(0, sequence=0, pid=2))
    looks.append(acknowledged(report(1, "refused", sequence=1, pid=1)))
    assert config("status", "--wait", "600")[0] == 1


def test_waiting_ends_at_once_when_the_canary_is_halted(url, looks):
    publish(url, {"a": 1})
    publish(url, {"a": 2}, canary=rollout.For(("eu",)))
    acknowledge(url, report(1, sequence=2, zone="eu"))

    async def halted(store):
        head = (await store.heads(["arena"]))["arena"]
        await store.commit([rollout.halt(head, 2, by="play1", reason="refused")])
        await acknowledged(report(1, sequence=3, zone="eu"))(store)

    looks.append(halted)
    assert config("status", "--wait", "600")[0] == 1


def test_waiting_ends_when_the_time_is_over(url):
    publish(url, {"a": 1})
    acknowledge(url, report(0, sequence=0))
    assert config("status", "--wait", "0.05")[0] == 1


def test_control_c_ends_waiting_and_leaves_nothing_behind(url, tmp_path):
    publish(url, {"a": 1})
    acknowledge(url, report(0, sequence=0))
    program = (
        "import sys\n"
        "from hotfd.cli.config import status\n"
        "looked = status.look\n"
        "async def look(store, modules):\n"
        "    found = await looked(store, modules)\n"
        "    print('looked', flush=True)\n"
        "    return found\n"
        "status.look = look\n"
        "from hotfd.cli import main\n"
        "main(['config', 'status', '--wait', '600'], prog_name='hotfd')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_control_c,
    ) as waiting:
        assert waiting.stdout.readline() == "looked\n"
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out.replace("looked\n", ""), err) == (130, "", "")


# -- one server ------------------------------------------------------------------------------------

MODULES = {"arena": {"running": 12, "zone": "eu", "pinned": {"12": 3}}}


async def configured(request, emit):
    return {"pid": os.getpid(), "generation": 1, "modules": MODULES}


def test_one_server_is_shown_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv(STORE, "dir:/nowhere")  # for other commands; it is not looked at
    with serving(tmp_path / "run", {"config": configured}):
        code, out, _ = config("status", "--pid", os.getpid())
        assert (code, out.splitlines()) == (0, ["arena", "  running  12", "  pinned   12: 3", "  zone     eu"])
        assert json.loads(config("status", "--pid", os.getpid(), "--json")[1])["modules"] == MODULES
        metrics = config("status", "--pid", os.getpid(), "--metrics")[1]
    assert 'hotfd_config_running_version{module="arena",zone="eu"} 12' in metrics.splitlines()


def test_a_server_of_an_earlier_release_says_that_it_has_no_such_instruction(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {}):
        code, _, err = config("status", "--pid", os.getpid())
    assert code == 1
    assert "unknown-instruction" in err


def test_a_supervisors_workers_are_shown_one_after_the_other_and_have_no_common_metrics(tmp_path, monkeypatch):
    async def each(request, emit):
        return {"workers": [{"worker": n, "pid": n, "result": {"modules": {"arena": {"running": n}}}} for n in (1, 2)]}

    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {"config": each}):
        lines = config("status", "--pid", os.getpid())[1].splitlines()
        metrics = config("status", "--pid", os.getpid(), "--metrics")
    assert lines == [
        "worker 1, process 1",
        "  arena",
        "    running  1",
        "worker 2, process 2",
        "  arena",
        "    running  2",
    ]
    assert metrics[0] == 2


@pytest.mark.parametrize("workers", [False, True])
def test_one_session_is_asked_for_and_its_absence_is_an_exit_status(tmp_path, monkeypatch, workers):
    asked = []

    async def sessions(request, emit):
        asked.append(request)
        found = [{"id": "s-1", "connections": 1, "config": {"arena": 12}}] if request.get("session") == "s-1" else []
        answer = {"total": 5, "busy": 0, "sessions": found}
        return (
            {"workers": [{"worker": 1, "pid": 1, "result": answer}, {"worker": 2, "error": {}}]} if workers else answer
        )

    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {"sessions": sessions}):
        code, out, _ = hotfd("sessions", "--pid", os.getpid(), "--session", "s-1")
        missing = hotfd("sessions", "--pid", os.getpid(), "--session", "s-9")
        hotfd("sessions", "--pid", os.getpid())
    assert code == 0
    assert "arena 12" in out
    assert missing[:2] == (1, "")
    assert "there is no session 's-9'" in missing[2]
    assert [request.get("session") for request in asked] == ["s-1", "s-9", None]
