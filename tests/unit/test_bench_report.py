"""The report of the benchmarks: from suites to results, and from results to what people read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from hotfd.bench.measure import Goal, Section, Series, Table
from hotfd.bench.plots import Bars, Histogram, Lines
from scripts.bench import __main__ as program
from scripts.bench import building, report, results, runner
from scripts.bench.results import Ran, Results

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "performance"


def section(name: str = "floor") -> Section:
    return Section(
        name,
        "The floor",
        "Descriptors are passed, and nothing else.",
        [Table("Time", ["case", "time"], [["a | b", str(Series("s", (0.1, 0.2)))]])],
        [
            Goal("half of it", Series("x", (0.61, 0.7)), at_least=0.5),
            Goal("all of it", Series("x", (0.61, 0.7)), at_least=1, limits="Python"),
        ],
        [
            Lines(f"{name}-lines", "Lines", "n", "s", {"ours": [(1, 2.0), (3, 4.123456789)]}, log_x=True),
            Bars(f"{name}-bars", "Bars", "s", {"group": {"ours": 1.5}}),
            Histogram(f"{name}-pauses", "Pauses", "ms", {"ours": [(1, 2, 3)]}),
        ],
        {"raw": [1, 2.123456789, {"deep": None}]},
        ["pgbouncer is not installed: apt-get install pgbouncer"],
    )


def ran(found: Section | None, failure: str = "") -> Ran:
    return Ran("2026-01-02 03:04 UTC", "abc1234+", 2, False, 12.3, found, failure)


def found() -> Results:
    return Results(
        {"kernel": "Linux 6", "cores": 2}, {"floor": ran(section()), "kv": ran(None, "ValueError: no\nredis")}
    )


def suite(monkeypatch, name: str, run) -> None:
    """Put a suite in the place of a real one."""
    module = types.ModuleType(f"scripts.bench.suites.{name}")
    module.run = run
    module.__spec__ = types.SimpleNamespace(name=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(runner, "available", lambda: ["floor", "kv"])


def test_results_come_back_from_a_file_as_they_were_but_for_digits_that_nobody_measured(tmp_path):
    results.write(found(), tmp_path / "results.json")
    back = results.read(tmp_path / "results.json")
    assert back.machine == found().machine
    assert back.suites["kv"] == ran(None, "ValueError: no\nredis")
    one, other = back.suites["floor"].section, section()
    assert (one.tables, one.goals, one.skipped) == (other.tables, other.goals, other.skipped)
    assert [type(plot) for plot in one.plots] == [Lines, Bars, Histogram]
    assert one.plots[0].lines == {"ours": [(1, 2.0), (3, 4.12346)]}
    assert one.data == {"raw": [1, 2.12346, {"deep": None}]}


def test_what_was_read_is_written_as_it_was_and_shown_as_it_was(tmp_path):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    results.write(found(), one)
    results.write(results.read(one), other)
    assert json.loads(one.read_text()) == json.loads(other.read_text())
    assert report.files(results.read(one)) == report.files(results.read(other))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99, "machine": {}, "suites": {}}', '{"format": 1}'])
def test_a_file_with_something_else_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(results.UnknownFormat):
        results.read(path)


def test_the_report_begins_with_the_goals_and_says_what_is_not_met_and_why():
    text = report.files(found())[report.INDEX]
    assert text.index("## Goals") < text.index("## The floor") < text.index("## Machine")
    assert "1 of 2 goals are met" in text
    assert "| [The floor](#the-floor) | half of it | at least 0.5 x | 0.655 x (0.61 to 0.7) | met |" in text
    assert "| [The floor](#the-floor) | all of it | at least 1 x | 0.655 x (0.61 to 0.7) | **not met** |" in text
    assert "- *all of it*: Python" in text


def test_what_stands_in_the_way_of_several_goals_is_said_once():
    many = found()
    low = Series("x", (0.1,))
    many.suites["floor"].section.goals += [Goal("more", low, at_least=1, limits=why) for why in ("Python", "")]
    text = report.files(many)[report.INDEX]
    assert "- *all of it*; *more*: Python\n- *more*: it is not known what.\n" in text


def test_the_report_shows_tables_pictures_and_what_was_left_out():
    files = report.files(found())
    text = files[report.INDEX]
    assert "| a \\| b | 150 ms (100 to 200) |" in text
    assert "![Lines](floor-lines.svg)" in text
    assert set(files) == {report.INDEX, "floor-lines.svg", "floor-bars.svg", "floor-pauses.svg"}
    assert "- pgbouncer is not installed: apt-get install pgbouncer" in text


def test_a_suite_that_failed_is_in_the_report_with_what_happened():
    text = report.files(found())[report.INDEX]
    assert "These suites failed, and say nothing: kv." in text
    assert "ValueError: no\nredis" in text
    assert "FAILED   kv: redis" in report.summary(found())


def test_figures_of_a_quick_run_are_marked_as_such():
    quick = found()
    quick.suites["floor"].quick = True
    assert "**Quick:" in report.files(quick)[report.INDEX]
    assert "**Quick:" not in report.files(found())[report.INDEX]


def test_pictures_of_an_earlier_report_are_removed(tmp_path):
    (tmp_path / "old.svg").write_text("<svg/>")
    (tmp_path / "planning.md").write_text("by hand")
    report.write(found(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*report.files(found()), "planning.md"])


@pytest.mark.parametrize("name", ["floor-lines", "Upper", "../up", "", "a b"])
def test_a_picture_without_a_name_of_its_own_is_an_error(name):
    broken = found()
    broken.suites["floor"].section.plots.append(Lines(name, "", "", "", {"a": [(1, 1)]}))
    with pytest.raises(ValueError, match="cannot be called"):
        report.files(broken)


def test_a_suite_that_raises_is_reported_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def fail(settings):
        raise ValueError("the peer is broken")

    suite(monkeypatch, "floor", fail)
    suite(monkeypatch, "kv", lambda settings: section("kv"))
    assert program.main(["--out", str(tmp_path), "--rounds", "2"]) == 1
    back = results.read(tmp_path / "results.json")
    assert back.suites["floor"].section is None
    assert back.suites["floor"].failure.endswith("ValueError: the peer is broken")
    assert back.suites["kv"].section.title == "The floor"
    assert "FAILED   floor" in capsys.readouterr().out


def test_a_suite_gets_a_private_directory_that_is_removed(monkeypatch, tmp_path):
    seen = []

    def look(settings):
        (settings.directory / "file").write_text("x")
        seen.append((settings.rounds, settings.quick, settings.directory, settings.directory.stat().st_mode & 0o777))
        return section()

    suite(monkeypatch, "floor", look)
    assert program.main(["floor", "--quick", "--out", str(tmp_path)]) == 0
    [(rounds, quick, directory, mode)] = seen
    assert (rounds, quick, mode) == (1, True, 0o700)
    assert not directory.exists()


def test_a_suite_that_is_measured_again_replaces_its_figures_and_leaves_the_others(monkeypatch, tmp_path):
    suite(monkeypatch, "floor", lambda settings: section())
    suite(monkeypatch, "kv", lambda settings: section("kv"))
    assert program.main(["--out", str(tmp_path)]) == 0
    suite(monkeypatch, "kv", lambda settings: Section("kv", "Anew"))
    assert program.main(["kv", "--out", str(tmp_path), "--update"]) == 0
    text = (tmp_path / "index.md").read_text()
    assert "## Anew" in text
    assert "## The floor" in text
    assert not (tmp_path / "kv-lines.svg").exists()


def test_figures_of_another_machine_are_not_put_beside_these(monkeypatch, tmp_path, capsys):
    suite(monkeypatch, "floor", lambda settings: section())
    results.write(found(), tmp_path / "results.json")
    assert program.main(["floor", "--out", str(tmp_path), "--update"]) == 2
    assert "another machine (kernel" in capsys.readouterr().err


def test_an_unknown_suite_is_wrong_usage(capsys):
    assert program.main(["nothing"]) == 2
    assert "There is no suite nothing." in capsys.readouterr().err


def test_an_interrupted_run_writes_nothing(monkeypatch, tmp_path):
    def interrupt(settings):
        raise KeyboardInterrupt

    suite(monkeypatch, "floor", interrupt)
    assert program.main(["floor", "--out", str(tmp_path / "out")]) == 130
    assert not (tmp_path / "out").exists()


def test_a_report_is_drawn_anew_without_measuring(tmp_path):
    results.write(found(), tmp_path / "results.json")
    command = [sys.executable, "-m", "scripts.bench", "--report-only", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "index.md").read_text() == report.files(results.read(tmp_path / "results.json"))["index.md"]


def test_every_suite_that_is_there_has_a_title_and_a_run():
    for name in runner.available():
        source = (ROOT / "scripts" / "bench" / "suites" / f"{name}.py").read_text()
        assert "\nTITLE" in source, name
        assert "\ndef run(settings: Settings) -> Section:" in source, name


def test_every_module_of_the_suites_is_run():
    there = {path.stem for path in (ROOT / "scripts" / "bench" / "suites").glob("*.py")} - {"__init__"}
    assert there == set(runner.available())


def test_the_committed_report_is_what_its_results_give():
    if not (COMMITTED / "results.json").exists():
        pytest.skip("nothing has been measured yet: make bench")
    text = json.loads((COMMITTED / "results.json").read_text())
    assert not any(each["quick"] or each["failure"] for each in text["suites"].values())
    files = report.files(results.read(COMMITTED / "results.json"))
    assert {name: (COMMITTED / name).read_text() for name in files} == files
    assert {path.name for path in COMMITTED.glob("*.svg")} == set(files) - {report.INDEX}


def test_a_program_is_built_once_and_again_when_its_source_is_newer(monkeypatch, tmp_path):
    (tmp_path / "answer.c").write_text("int main(void) { return 7; }\n")
    monkeypatch.setattr(building, "HERE", tmp_path)
    monkeypatch.setattr(building, "BUILT", tmp_path / "built")
    built = building.program("answer")
    assert subprocess.run([built], check=False).returncode == 7
    first = built.stat().st_mtime_ns
    assert building.program("answer").stat().st_mtime_ns == first
    (tmp_path / "answer.c").write_text("int main(void) { return 8; }\n")
    os.utime(tmp_path / "answer.c", ns=(first + 1, first + 1))
    assert subprocess.run([building.program("answer")], check=False).returncode == 8


def test_without_a_compiler_nothing_is_built_and_it_says_how_to_have_one(monkeypatch, tmp_path):
    (tmp_path / "answer.c").write_text("int main(void) { return 7; }\n")
    monkeypatch.setattr(building, "HERE", tmp_path)
    monkeypatch.setattr(building, "BUILT", tmp_path / "built")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(building.NoCompiler, match="apt-get install gcc"):
        building.program("answer")
