"""Every reason code that the code can give is explained to operators."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from hotfd.display.advice import ADVICE

ROOT = Path(__file__).resolve().parents[2]

CODE_ARGUMENT = {"HandoffRefused": 0, "fail": 0, "_fail_and_leave": 0, "Refusal": 1, "_keep": 1, "count": 2}
"""Which argument of a call is a reason code."""


def codes_in(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = CODE_ARGUMENT.get(name)
            if at is not None and len(node.args) > at and isinstance(code := node.args[at], ast.Constant):
                found.add(code.value)
    return {code for code in found if isinstance(code, str)}


def test_every_reason_code_has_its_advice_and_its_row_for_operators() -> None:
    sources = [
        *(ROOT / "hotfd").glob("server/*.py"),
        *(ROOT / "hotfd").glob("transfer/*.py"),
        *(ROOT / "hotfd").glob("supervisor/*.py"),
        *(ROOT / "hotfd/app").glob("*.py"),
    ]
    codes = set().union(*(codes_in(ast.parse(path.read_text())) for path in sources))
    assert {"descriptor-limit", "new-hung", "state-decode", "lost-in-new-process"} <= codes, "the search finds nothing"
    rows = set(re.findall(r"`([a-z-]+)`", (ROOT / "docs/operators.md").read_text()))
    assert codes - rows == set()
    assert codes - set(ADVICE) - {"malformed", "dry-run"} == set()
