"""From files to values: which files count, what contradicts itself, and who refuses a release."""

import msgspec
import pytest

from hotfd.config.release import Release
from hotfd.errors import ConfigError, ReleaseRefused
from hotfd.publish import compile as compiling
from hotfd.publish.check import check
from hotfd.publish.documents import MAX_FILE
from hotfd.publish.repository import Entry


def entry(path, size=1, kind="file", executable=False):
    return Entry(path, size, kind, executable, path)


def faults_of(*entries, module="match"):
    return [str(fault) for fault in compiling.select(module, entries).faults]


def committed(files, executable=()):
    entries = [entry(path, len(data), executable=path in executable) for path, data in files.items()]
    chosen = compiling.select("match", entries)
    assert not chosen.faults
    return compiling.read("match", chosen.wanted, {one.path: files[one.path] for one in chosen.wanted})


def no_script(script, current):
    raise ConfigError("no script is run here")


def test_a_directory_with_a_known_file_is_a_module():
    assert compiling.is_module("m", [entry("README"), entry("config.yml")])
    assert compiling.is_module("m", [entry("zones/eu.json")])
    assert not compiling.is_module(".circleci", [entry("config.yml")])
    assert not compiling.is_module("m", [entry("README"), entry("x/config.toml"), entry("config.ini")])


def test_files_that_are_not_known_are_not_even_read():
    chosen = compiling.select("match", [entry("config.toml"), entry("notes.txt", 10**9), entry("deep/er/x", 10**9)])
    assert [one.path for one in chosen.wanted] == ["config.toml"]
    assert chosen.faults == []


def test_contradictions_and_what_cannot_be_read_are_all_found_without_reading():
    found = faults_of(
        entry("config.toml"),
        entry("config.yaml", MAX_FILE + 1),
        entry("instruction"),
        entry("instruction.toml", kind="link"),
        entry("zones/eu.toml"),
        entry("zones/eu.json"),
        entry("zones/us.ini"),
        module="No Module",
    )
    for part in (
        "no name of a module",
        "config.yaml: the file has 1048577 bytes",
        "instruction.toml: the file must be there itself, and is a link",
        "zones/us.ini: a zone's file ends with one of",
        "one file of values, and not config.toml and config.yaml",
        "instruction or instruction.toml, and not both",
        "a script must be executable",
        "one file for zone 'eu'",
    ):
        assert any(part in line for line in found), (part, found)


def test_every_fault_of_every_file_is_said_with_its_file():
    files = {"config.toml": b"a = = 1", "instruction.toml": b"x = 1", "zones/EU.toml": b"", "zones/us.json": b"{"}
    with pytest.raises(ReleaseRefused) as caught:
        committed(files)
    assert {fault.path.partition(":")[0] for fault in caught.value.faults} == {f"match/{name}" for name in files}


def test_the_origin_differs_if_and_only_if_the_files_do():
    one = committed({"config.toml": b"a = 1"})
    assert one.origin == committed({"config.toml": b"a = 1"}).origin
    assert one.origin != committed({"config.toml": b"a = 1 "}).origin
    assert one.origin != committed({"config.toml": b"a = 1", "zones/eu.toml": b""}).origin


def test_a_script_makes_the_values_and_finds_the_files_beside_it():
    asked = []

    def run(script, current):
        asked.append((sorted(script.files), current))
        return {"made": 1}

    before = Release("match", 1, "r", "a", 0.0, {"old": 1})
    one = committed({"instruction": b"#!", "config.toml": b"x = 1", "data.csv": b"1,2"}, {"instruction"})
    draft = compiling.carry_out(one, before, run)
    assert draft.values == {"made": 1}
    assert asked == [(["config.toml", "data.csv", "instruction"], {"old": 1})]
    assert draft.instruction.script == one.script.sha256


def test_a_script_that_fails_is_a_fault_of_its_file():
    one = committed({"instruction": b"#!"}, {"instruction"})
    with pytest.raises(ReleaseRefused) as caught:
        compiling.carry_out(one, None, no_script)
    assert [str(fault) for fault in caught.value.faults] == ["match/instruction: no script is run here"]


def schema(**properties):
    return msgspec.json.encode({"type": "object", "properties": properties, "additionalProperties": False})


RELEASE = Release("match", 1, "r", "a", 0.0, {"hp": 10}, {"eu-1": {"hp": "many"}})
NUMBER, ANYTHING = {"type": "integer"}, {}


def test_values_are_checked_in_every_zone():
    with pytest.raises(ReleaseRefused) as caught:
        check(RELEASE, {"s1": schema(hp=NUMBER)}, print)
    assert "hp in zone eu-1" in str(caught.value)
    assert check(RELEASE, {"s1": schema(hp=ANYTHING)}, print).schema == "s1"


def test_two_versions_of_the_servers_may_differ_in_what_they_take():
    notes = []
    assert check(RELEASE, {"new": schema(hp=ANYTHING), "old": schema()}, notes.append).schema == "new"
    assert "schema old will refuse this" in notes[0]
    check(RELEASE, {"new": schema(hp=ANYTHING), "old": schema(hp=NUMBER)}, notes.append)
    assert "hp in zone eu-1 should be" in notes[1]
    assert "many" not in notes[1], "a note may get into a log, and values are in no log"
    with pytest.raises(ReleaseRefused):
        check(RELEASE, {"new": schema(), "old": schema(mp=NUMBER)}, notes.append)


def test_without_what_checks_it_is_said_that_nothing_was_checked(monkeypatch):
    def missing(*_):
        raise ConfigError("pip install 'hotfd[config]'")

    monkeypatch.setattr("hotfd.config.jsonschema.check_against", missing)
    notes = []
    assert check(RELEASE, {"s1": schema()}, notes.append) == RELEASE
    assert "not checked" in notes[0]


def test_a_path_that_leads_out_of_the_module_is_refused():
    paths = ["../../etc/cron.d/x", "a//b", "a/../../b", "./x"]
    found = faults_of(entry("instruction", executable=True), *(entry(path) for path in paths))
    assert found == [f"match/{path}: no path that a file can have" for path in paths]


def test_what_stands_in_the_place_of_the_zones_is_not_passed_over():
    assert faults_of(entry("config.toml"), entry("zones", kind="link")) == ["match/zones: a directory, and not a link"]
