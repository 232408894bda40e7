"""The documentation is true where a program can tell: links, names, commands, code, and the tests that it names."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from itertools import takewhile
from pathlib import Path

import click
import pytest

import hotfd
import hotfd.testing
from hotfd.cli import main
from hotfd.server.connection import Connection
from hotfd.state import Codec

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
TEXTS = [*sorted(ROOT.glob("*.md")), *DOCS]
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def without_code(text: str) -> str:
    """Return a text without its fenced blocks and its code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


@cache
def anchors(path: Path) -> set[str]:
    """Return the fragments that a text's headings make, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    """Return the targets of a text's links within the project."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8")))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def code_blocks(path: Path, language: str) -> list[str]:
    """Return a text's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def broken(path: Path, target: str) -> bool:
    """Return whether a link leads nowhere."""
    name, _, fragment = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    if not file.exists():
        return True
    return bool(fragment) and file.suffix == ".md" and fragment not in anchors(file)


@each_text
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    assert [target for target in links(path) if broken(path, target)] == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    readme = ROOT / "README.md"
    wrong = ["docs/nothing.md", "docs/library.md#nothing", "#nothing"]
    right = ["docs/library.md", "docs/library.md#the-rules-of-a-handler", "#install"]
    assert [target for target in [*wrong, *right] if broken(readme, target)] == wrong


def test_every_file_of_the_documentation_is_in_its_index() -> None:
    index, performance = ROOT / "docs" / "index.md", ROOT / "docs" / "performance" / "index.md"  # which has pictures
    indices = [path for path in (index, performance) if path.exists()]
    linked = {(path.parent / target.partition("#")[0]).resolve() for path in indices for target in links(path)}
    files = [path for path in (ROOT / "docs").rglob("*") if path.is_file() and path != index]
    assert [path.name for path in files if path not in linked] == []


@each_text
def test_every_block_of_python_compiles(path: Path) -> None:
    for block in code_blocks(path, "python"):
        compile(block, str(path), "exec", dont_inherit=True)


def library_programs() -> dict[str, object]:
    """Run the programs of the reference, which define handlers and types; return all that they define."""
    found: dict[str, object] = {}
    for block in code_blocks(ROOT / "docs" / "library.md", "python"):
        program: dict[str, object] = {"__name__": "example"}
        exec(compile(block, "library.md", "exec", dont_inherit=True), program)
        found |= program
    return found


DIALOGUES = {
    "echo": [("a", "a"), ("b", "b")],
    "serve": [(None, "welcome"), ("a", "a"), ("b", "b")],
    "relay": [("a", "you said a"), ("b", "you said b")],
    "impatient": [("a", "a"), ("b", "b")],
    "count": [("a", "1"), ("a", "2"), ("b", "1")],
    "patient": [("a", "a"), ("b", "b")],
    "market": [("gold 7", "gold costs 7"), ("tin 1", "tin costs 1")],
    "tally": [("a", "1"), ("b", "1")],
    "fight": [("a", "a hits for 5"), ("b", "b hits for 5")],
    "play": [("join red", "somebody has sat down"), ("a", "a"), ("join blue", "somebody has sat down"), ("b", "b")],
}
"""What a client of each handler in the reference says, and what it must get."""


@pytest.mark.parametrize("name", DIALOGUES)
async def test_the_handlers_of_the_library_reference_bear_being_handed_over(name: str) -> None:
    programs = library_programs()
    shared: dict[str, object] = {}
    if name == "count":
        shared = {"export_state": lambda: programs["words"], "import_state": lambda words: None}
    elif name == "fight":
        rules = programs["Rules"]
        shared = {"config": hotfd.Config("match", rules, initial=rules())}  # type: ignore[arg-type,operator]
    elif name == "play":
        shared = {"state": programs["Player"]}
    async with hotfd.testing.serve(programs[name], **shared) as server:  # type: ignore[arg-type]
        client = await server.connect()
        for said, expected in DIALOGUES[name]:
            if said is not None:
                await client.send(said.encode())
            await client.expect(expected.encode())
        assert server.handovers >= 2
        client.write_eof()
        await client.expect_end()


def test_the_states_of_the_library_reference_travel() -> None:
    programs = library_programs()
    dice = Codec.of(programs["dice"])  # type: ignore[arg-type]
    thrown = dice.new()
    copy = dice.reader(dice.schema)(dice.encode(thrown))
    assert [copy.random() for _ in range(3)] == [thrown.random() for _ in range(3)]
    visitor = programs["Visitor"]
    assert Codec.of(visitor).version == 2  # type: ignore[arg-type]
    assert visitor.upgrade({"name": "anna"}, 1).names == ["anna"]  # type: ignore[attr-defined]


def test_the_framing_of_the_library_reference_finds_what_it_writes() -> None:
    framing = library_programs()["Tagged"]()  # type: ignore[operator]
    data = framing.encode(b"abc") + framing.encode(b"")
    assert framing.scanner().scan(data, 0) == [2, 5, 5, 7, 7, 7]
    assert framing.scanner().scan(data[:4], 0) == []


def test_the_readmes_program_is_the_example_in_the_package() -> None:
    def talk(source: str) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        kept = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef)]
        return "\n".join(map(ast.unparse, kept))

    readme = code_blocks(ROOT / "README.md", "python")[0]
    assert talk(readme) == talk((ROOT / "examples" / "counter.py").read_text(encoding="utf-8"))


# -- the reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hotfd.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`(await )?hotfd\.{name}\b", LIBRARY), f"docs/library.md says nothing of hotfd.{name}"


def public(cls: type) -> set[str]:
    """Return a class's public members, those that are named in ``__slots__`` included."""
    return {name for name in vars(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(public(Connection)))
def test_every_member_of_a_connection_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`(await )?conn\.{name}\b", LIBRARY), f"docs/library.md says nothing of conn.{name}"


@pytest.mark.parametrize("name", sorted(public(hotfd.Server)))
def test_every_member_of_a_server_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`(await )?server\.{name}\b", LIBRARY), f"docs/library.md says nothing of server.{name}"


def test_the_reference_names_no_member_that_is_not_there() -> None:
    members = {"conn": public(Connection), "server": public(hotfd.Server) | {"name"}}
    named = re.findall(r"\b(conn|server)\.([a-z_]+)\b(?!\.md)", LIBRARY)
    assert {(who, name) for who, name in named if name not in members[who]} == set()


@pytest.mark.parametrize(
    "function", [hotfd.run, hotfd.Server, hotfd.State, hotfd.Config], ids=lambda function: function.__name__
)
def test_every_argument_is_in_the_reference(function: object) -> None:
    assert callable(function)
    arguments = set(inspect.signature(function).parameters) - {"self"}
    assert {name for name in arguments if not re.search(rf"`{name}\b|[( ]{name}=", LIBRARY)} == set()


# -- the map ---------------------------------------------------------------------------------------


def mapped() -> set[str]:
    """Return the files that ARCHITECTURE.md maps; a table's head names the folder of what is in it."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    found = set()
    for table in re.findall(r"^\|.*?(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL):
        head, *rows = table.splitlines()
        folders = re.findall(r"`([\w/.]+/)`", head)
        names = [name for row in rows for name in re.findall(r"`([\w/.]+\.\w+)`", row.split("|")[1])]
        found |= {names_path(folders, name) for name in names}
    return found


def names_path(folders: list[str], name: str) -> str:
    """Return a mapped file's path from the project's root."""
    return name if "/" in name or not folders else folders[0] + name


def test_every_module_is_on_the_map_and_the_map_has_no_other() -> None:
    patterns = ["hotfd/**/*.py", "hotfd/**/*.pyi", "csrc/*.[ch]", "csrc/*.py"]
    files = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    files = {file for file in files if not (file.endswith("/__init__.py") and file not in WITH_CODE)}
    on_the_map = {file for file in mapped() if file.startswith(("hotfd/", "csrc/"))}
    assert (files - on_the_map, on_the_map - files) == (set(), set())


WITH_CODE = {"hotfd/__init__.py", "hotfd/_core/__init__.py"}
"""Those ``__init__.py`` that are more than the front of their folder."""


# -- the guarantees --------------------------------------------------------------------------------


def named_tests(text: str) -> list[tuple[str, str]]:
    """Return the tests that a text names: path and function."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


@cache
def functions(path: Path) -> set[str]:
    """Return the functions that a module defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@each_text
def test_every_test_that_is_named_exists(path: Path) -> None:
    for file, name in named_tests(path.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        assert name in functions(ROOT / file), f"{file} has no {name}"


def test_every_guarantee_is_stated_with_tests_that_show_it() -> None:
    sections = re.split(r"^## ", GUARANTEES, flags=re.MULTILINE)[1:]
    assert [section.split()[0] for section in sections] == [f"G{number}" for number in range(1, 10)]
    assert [section.split()[0] for section in sections if not named_tests(section)] == []


def threats(text: str) -> list[str]:
    """Return the rows of the tables of a text that say what happens, and what shows it."""
    tables = re.findall(r"^\| what .*\| shown by \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def test_every_line_of_the_threat_model_names_a_test_that_shows_it() -> None:
    rows = threats((ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(rows) > 40
    assert [row for row in rows if not named_tests(row.split("|")[3])] == []


# -- commands --------------------------------------------------------------------------------------


def commands(path: Path) -> list[str]:
    """Return the command lines of a text's console blocks."""
    lines = [line for block in code_blocks(path, "console") for line in block.splitlines()]
    return [line[2:].partition(" # ")[0].strip() for line in lines if line.startswith("$ ")]


def make_targets() -> set[str]:
    """Return the Makefile's targets."""
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def unknown_to_hotfd(words: list[str]) -> list[str]:
    """Return the words of a ``hotfd`` command line that name no command and no option of it."""
    if not words or words[0].startswith("-"):
        return []
    command, rest = main, words
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return [rest[0]]
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    own = rest[: rest.index("--")] if "--" in rest else rest
    return [word for word in own if word.startswith("-") and word.partition("=")[0] not in known]


@each_text
def test_every_command_that_is_shown_exists(path: Path) -> None:
    for line in commands(path):
        words = line.split()
        if words[0] == "make":
            assert words[1] in make_targets(), line
        elif words[0] == "hotfd":
            assert unknown_to_hotfd(words[1:]) == [], line
        elif words[0].startswith("python") and words[1].startswith("examples/"):
            assert (ROOT / words[1]).is_file(), line


@each_text
def test_every_synopsis_and_script_has_commands_and_options_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^ {4}hotfd (.*)$", text, re.MULTILINE)
    lines += [line for block in code_blocks(path, "sh") for line in re.findall(r"\bhotfd (.*)", block)]
    for line in lines:
        own = line.partition(" -- ")[0]
        names = takewhile(lambda word: word[0] not in "-[", own.split())
        words = [*names, *re.findall(r"(?<![\w-])--[a-z-]+", own)]
        assert unknown_to_hotfd(words) == [], line


@each_text
def test_every_make_target_and_command_in_running_text_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert {target for target in re.findall(r"`make ([a-z-]+)", text) if target not in make_targets()} == set()
    spans = re.findall(r"`hotfd ((?:[a-z]+|--)[^`\n]*)`", text)
    assert {span for span in spans if unknown_to_hotfd(span.split())} == set()


def test_a_command_that_does_not_exist_is_found() -> None:
    assert unknown_to_hotfd(["vanish"]) == ["vanish"]
    assert unknown_to_hotfd(["config", "vanish", "--json"]) == ["vanish"]
    assert unknown_to_hotfd(["config", "history", "arena", "--json", "--nonsense"]) == ["--nonsense"]
    assert unknown_to_hotfd(["handoff", "--pid", "1", "--nonsense", "--", "x", "--y"]) == ["--nonsense"]
