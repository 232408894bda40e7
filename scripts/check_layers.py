#!/usr/bin/env python3
"""Check that imports in ``hotfd`` point down, from a layer to itself or to a lower one.

Every import counts: at module level, inside a function, under ``TYPE_CHECKING``, by ``importlib`` with a literal
name. Prints one line per offence, and exits with 1 when there is any::

    hotfd/wire/sender.py:12: imports hotfd.server.stream, which is above
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "hotfd"

LAYERS = (
    "base",
    "_core",
    "framing",
    "state",
    "wire",
    "transfer",
    "config",
    "publish",
    "server",
    "display",
    "control",
    "console",
    "testing",
    "supervisor",
    "app",
    "distribution",
    "bench",
    "cli",
)
"""From low to high. What is not named here belongs to no layer, and is an offence itself."""

BASE = ("children", "errors", "faults", "log", "report", "systemd", "_version")
"""Modules of the lowest layer, which everybody may import."""

FORBIDDEN = {
    "config": {"framing", "state", "wire", "transfer"},
    "publish": {"framing", "state", "wire", "transfer"},
    "server": {"publish"},
    "control": {"server", "config", "publish"},
    "console": {"server", "config", "publish"},
    "display": {"server", "publish"},
    "supervisor": {"server", "testing", "config", "publish"},
}
"""Layers that may not be imported although they are below: the control socket knows nothing of the server."""

DEFERRED = {"cli": {"config", "publish", "server", "supervisor", "app", "distribution", "bench"}}
"""Layers that may be imported inside a function only: the command line must start quickly."""

NATIVE = ("cffi", "_cffi_backend", "hotfd._core._native")
"""What ``hotfd/_core`` alone may import."""

LAZY = "__init__.py"
"""The package's own front, whose lazy names come from every layer."""


def layer_of(module: str) -> str | None:
    """Return the layer of a module of the package, or None when it has none."""
    parts = module.split(".")
    if parts[0] != PACKAGE or len(parts) == 1:
        return None
    return "base" if parts[1] in BASE else parts[1]


def imports(tree: ast.Module, package: str, is_module: set[str]) -> Iterator[tuple[int, str, bool]]:
    """Yield each import of a file: its line, the module's full name, and whether that is done when the file is loaded."""
    deferred = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types_only(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        for name in imported(node, package, is_module):
            yield getattr(node, "lineno", 0), name, id(node) not in deferred


def for_types_only(node: ast.AST) -> bool:
    """Return whether a node is ``if TYPE_CHECKING:`` without an ``else``; what is in it is never carried out."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=[]):
            return True
    return False


def imported(node: ast.AST, package: str, is_module: set[str]) -> list[str]:
    """Return the full names of the modules that one node imports."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            origin = ".".join([*base, *([module] if module else [])])
            # "from hotfd import log" imports hotfd.log; "from hotfd.errors import X" imports hotfd.errors.
            return [f"{origin}.{a.name}" if f"{origin}.{a.name}" in is_module else origin for a in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def offence(importer: str, name: str, *, top: bool) -> str | None:
    """Say what is wrong with an import, or None."""
    if importer != "_core" and any(name == native or name.startswith(native + ".") for native in NATIVE):
        return f"imports {name}, which only {PACKAGE}/_core may"
    if name == PACKAGE:
        return f"imports {PACKAGE} itself, whose names come from every layer"
    layer = layer_of(name)
    if layer is None:
        return None
    if layer not in LAYERS:
        return f"imports {name}, which belongs to no layer"
    if LAYERS.index(layer) > LAYERS.index(importer):
        return f"imports {name}, which is above"
    if layer in FORBIDDEN.get(importer, ()):
        return f"imports {name}, which {importer} must not know"
    if top and layer in DEFERRED.get(importer, ()):
        return f"imports {name} at module level, which makes every start slow"
    return None


def check(root: Path) -> list[str]:
    """Return the offences of all modules below ``root/hotfd``."""
    package = root / PACKAGE
    files = sorted(package.rglob("*.py"))
    names = {path: dotted(path.relative_to(root)) for path in files}
    is_module = {*names.values(), f"{PACKAGE}._core._native"}
    found = []
    for path, name in names.items():
        relative = path.relative_to(root)
        if relative == Path(PACKAGE, LAZY):
            continue
        importer = layer_of(name)
        if importer not in LAYERS:
            found.append(f"{relative}:1: belongs to no layer")
            continue
        own_package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), str(relative))
        for line, target, top in sorted(imports(tree, own_package, is_module)):
            if problem := offence(importer, target, top=top):
                found.append(f"{relative}:{line}: {problem}")
    return found


def dotted(path: Path) -> str:
    """Return the module's name of a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def main() -> int:
    """Check the tree that this script, or its argument, stands for."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = check(root)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
