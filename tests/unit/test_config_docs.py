"""The programs of docs/configuration.md do what the text says of them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import hotfd
from hotfd import testing
from hotfd.config.declare import Config
from hotfd.config.release import Release, seal

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

often = pytest.mark.parametrize("handoffs", ["never", "every"])


def program(name: str) -> dict[str, Any]:
    """Run the block that defines a name, and return all that it defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    defines = re.compile(rf"^(?:async def |class |def )?{name}\b[ (]", re.MULTILINE)
    (source,) = (block for block in blocks if defines.search(block))
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "configuration.md", "exec", dont_inherit=True), found)
    return found


async def ask(client: testing.Client, line: str) -> str:
    await client.send(line.encode())
    return (await client.receive()).decode()


@often
async def test_a_handler_keeps_what_it_began_with_but_for_what_is_live(handoffs):
    found = program("play")
    rules = found["Rules"]
    config = Config("match", rules, initial=rules(5, {"sword": 12}))
    async with testing.serve(found["play"], config=config, handoffs=handoffs) as server:
        ann = await server.connect()
        assert await ask(ann, "sword") == "12"
        server.publish(rules(6, {"sword": 14}))
        bob = await server.connect()
        assert [await ask(ann, "fist"), await ask(bob, "fist")] == ["5", "6"]
        server.publish(rules(7, open=False))
        assert [await ask(ann, "fist"), await ask(bob, "fist")] == ["closed", "closed"]


@often
async def test_of_several_modules_each_session_has_one_release(handoffs):
    found = program("trade")
    rules, shop = found["Rules"], found["Shop"]
    configs = [Config("match", rules, initial=rules()), Config("shop", shop, initial=shop())]
    async with testing.serve(found["trade"], config=configs, handoffs=handoffs) as server:
        ann = await server.connect()
        assert await ask(ann, "?") == "damage 5, price 100"
        server.publish(shop(sword=90), "shop")
        assert await ask(ann, "?") == "damage 5, price 100"
        assert await ask(await server.connect(), "?") == "damage 5, price 90"


@often
async def test_a_table_takes_the_newest_between_two_games(handoffs):
    found = program("table")
    rounds = found["Rounds"]
    config = Config("table", rounds, initial=rounds())
    states = [found["Table"]]
    async with testing.serve(found["table"], config=config, session_states=states, handoffs=handoffs) as server:
        ann = await server.connect()
        assert await ask(ann, "go") == "round 1 of 3"
        server.publish(rounds(rounds=2))
        assert [await ask(ann, "go") for _ in range(4)] == [
            "round 2 of 3",
            "round 3 of 3",
            "round 1 of 2",
            "round 2 of 2",
        ]


def test_what_the_program_checks_itself_is_refused_and_what_was_renamed_is_read():
    limits = program("limits")["limits"]
    assert limits.initial().value.most == 5

    def release(values: dict[str, Any]) -> Any:
        return limits.compile(seal(Release("limits", 1, "r1", "anna", 0.0, values))).value

    renamed = release({"minimum": 2, "maximum": 3})
    assert (renamed.least, renamed.most) == (2, 3)
    with pytest.raises(hotfd.ReleaseRefused, match="least is more than most"):
        release({"least": 4, "most": 3})


def test_the_table_of_arguments_has_each_of_them():
    section = TEXT.partition("## In the program")[2].partition("\n\n**Types.**")[0]
    arguments = set(inspect.signature(Config).parameters) - {"self"}
    assert {name for name in arguments if f"`{name}`" not in section} == set()


def test_what_the_text_says_that_one_sees_is_what_hotfd_says():
    # Literals that are divided over lines are put together, as Python does.
    sources = (re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in (ROOT / "hotfd").rglob("*.py"))
    said = "\n".join(sources)
    section = TEXT.partition("## When something is wrong")[2].partition("\n## ")[0]
    seen = [row.split(" | ")[0] for row in re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]]
    spans = [span for cell in seen for span in re.findall(r"`([^`]+)`", cell) if not span.startswith("hotfd ")]
    assert len(spans) > 15
    parts = [part.strip() for span in spans for part in re.split(r"\.\.\.|\b12\b", span) if part.strip()]
    assert [part for part in parts if part not in said] == []
