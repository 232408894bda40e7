"""The check of the layers: it passes on this tree, and fails on each kind of import that it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "check_layers.py"


def check(root: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(root)], check=False, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def tree(root: Path, **files: str) -> Path:
    """Make a package of one module per layer, and of the given files; ``a__b`` stands for ``a/b.py``."""
    front = files.pop("front", "")
    layers = ("_core", "framing", "state", "wire", "transfer", "server", "control", "testing", "app", "cli")
    content = {f"{layer}/__init__": "" for layer in layers} | {f"{layer}/part": "" for layer in layers}
    content |= {"__init__": front, "errors": "", "log": "", "report": "", "_version": ""}
    content |= {name.replace("__", "/", 1): text for name, text in files.items()}
    for name, text in content.items():
        path = root / "hotfd" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_tree_keeps_its_layers() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_imports_that_point_down_or_stay_are_fine(tmp_path: Path) -> None:
    assert check(
        tree(
            tmp_path,
            wire__sender="import os\nimport hotfd.errors\nfrom hotfd import log\nfrom hotfd.wire import part",
            server__x="from hotfd import _core\nfrom hotfd.transfer.part import y\nfrom . import part",
            testing__x="from hotfd.control import part\nfrom hotfd.server.part import y",
            cli__x="from hotfd.control import part\ndef f():\n    from hotfd.app import part",
            cli__y="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hotfd.app import part",
            _core__x="from cffi import FFI\nfrom hotfd._core._native import lib",
            log="from hotfd.errors import x\nfrom hotfd import _version",
        )
    ) == (0, [])


@pytest.mark.parametrize(
    ("name", "text", "line", "offence"),
    [
        ("wire__x", "import hotfd.server.part", 1, "imports hotfd.server.part, which is above"),
        ("wire__x", "\n\nfrom hotfd.transfer.part import y", 3, "imports hotfd.transfer.part, which is above"),
        ("wire__x", "from hotfd.transfer import part", 1, "imports hotfd.transfer.part, which is above"),
        ("wire__x", "from hotfd import server", 1, "imports hotfd.server, which is above"),
        ("wire__x", "from ..transfer import part", 1, "imports hotfd.transfer.part, which is above"),
        ("wire__x", "from .. import transfer", 1, "imports hotfd.transfer, which is above"),
        ("wire____init__", "from ..transfer import part", 1, "imports hotfd.transfer.part, which is above"),
        ("state__x", "from hotfd.wire.part import y", 1, "imports hotfd.wire.part, which is above"),
        ("errors", "from hotfd import _core", 1, "imports hotfd._core, which is above"),
        ("server__x", "def f():\n    from hotfd.app.part import y", 2, "imports hotfd.app.part, which is above"),
        (
            "server__x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hotfd.cli import part",
            3,
            "imports hotfd.cli.part, which is above",
        ),
        (
            "server__x",
            "import importlib\nimportlib.import_module('hotfd.app')",
            2,
            "imports hotfd.app, which is above",
        ),
        ("control__x", "from hotfd.server import part", 1, "imports hotfd.server.part, which control must not know"),
        ("control__x", "from hotfd.app import part", 1, "imports hotfd.app.part, which is above"),
        ("app__x", "from hotfd.cli import part", 1, "imports hotfd.cli.part, which is above"),
        (
            "cli__x",
            "from hotfd.server import part",
            1,
            "imports hotfd.server.part at module level, which makes every start slow",
        ),
        (
            "cli__x",
            "try:\n    from hotfd.app import part\nexcept ImportError:\n    pass",
            2,
            "imports hotfd.app.part at module level, which makes every start slow",
        ),
        ("server__x", "import cffi", 1, "imports cffi, which only hotfd/_core may"),
        ("server__x", "from cffi.api import FFI", 1, "imports cffi.api, which only hotfd/_core may"),
        (
            "server__x",
            "from hotfd._core._native import lib",
            1,
            "imports hotfd._core._native, which only hotfd/_core may",
        ),
        (
            "framing__x",
            "from hotfd._core import _native",
            1,
            "imports hotfd._core._native, which only hotfd/_core may",
        ),
        ("server__x", "import hotfd", 1, "imports hotfd itself, whose names come from every layer"),
        ("server__x", "from hotfd import Server", 1, "imports hotfd itself, whose names come from every layer"),
        ("nowhere__x", "", 1, "belongs to no layer"),
    ],
)
def test_an_import_that_points_up_is_one_line_and_a_failure(
    tmp_path: Path, name: str, text: str, line: int, offence: str
) -> None:
    file = f"hotfd/{name.replace('__', '/', 1)}.py"
    assert check(tree(tmp_path, **{name: text})) == (1, [f"{file}:{line}: {offence}"])


def test_every_offence_is_told(tmp_path: Path) -> None:
    code, lines = check(tree(tmp_path, wire__x="import hotfd.app\nimport cffi", state__x="import hotfd.cli"))
    assert code == 1
    assert len(lines) == 3


def test_the_lazy_names_of_the_package_may_come_from_everywhere(tmp_path: Path) -> None:
    assert check(tree(tmp_path, front="from hotfd.app import part\nfrom hotfd.server import part")) == (0, [])
