"""YAML, as much of it as is safe to take from somebody: plain values, and nothing that grows while it is read."""

from __future__ import annotations

from typing import Any, Final

import yaml

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # a PyYAML that was built without libyaml: the same, slower
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

MAX_DIGITS: Final = 100
"""Characters of an integer: one of 64 bits has as many in base two, with a sign, and underscores between them."""


class _Loader(_SafeLoader):
    """The safe loader, without what it lets pass: keys that are there twice, and merge keys."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys: each one copies what it refers to, and ten of ten of ten are a thousand."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not taken; write the keys out", key.start_mark
                )

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Make a table, and refuse a key that is there twice: the last one would win without a word."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value[:80]!r} is there twice in one table", key.start_mark
                    )
                seen.add((key.tag, key.value))
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result

    def construct_yaml_int(self, node: Any) -> int:
        """Make an integer, and refuse a long one: YAML's ``1:30:59`` takes time with the square of its length."""
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"an integer has more than {MAX_DIGITS} characters", node.start_mark
            )
        result: int = super().construct_yaml_int(node)
        return result


# The table of constructors holds functions, and not their names.
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load(text: str, max_depth: int, max_nodes: int) -> Any:
    """Read one document.

    The events are looked at first, one after the other: what is too deep or too much is refused before anything that
    recurs, in C without a limit, is asked to build it.

    Raises:
        yaml.YAMLError: it is no YAML, not one document, or more than is taken.
    """
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes += isinstance(event, yaml.NodeEvent)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > max_depth or nodes > max_nodes:
            what = f"more than {max_depth} levels" if depth > max_depth else f"more than {max_nodes} values"
            raise yaml.constructor.ConstructorError(None, None, f"there are {what}", event.start_mark)  # type: ignore[arg-type]  # libyaml's
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe one
