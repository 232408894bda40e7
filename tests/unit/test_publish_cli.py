"""What the commands that publish are told, before anything is done."""

import click
import pytest

from hotfd.cli.config.publishing import canary_of
from hotfd.config.rollout import For


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], None),
        (["zone=eu-1"], For(("eu-1",), 0.0)),
        (["5%"], For((), 0.05)),
        (["zone=eu-1", "100%", "zone=us", "zone=eu-1"], For(("eu-1", "us"), 1.0)),
    ],
)
def test_a_canary_is_for_zones_and_for_a_share_of_the_others(words, wanted):
    assert canary_of(words) == wanted


@pytest.mark.parametrize(
    "words", [["x"], ["zone=No"], ["zone="], ["0%"], ["-1%"], ["nan%"], ["200%"], ["%"], ["5%", "6%"]]
)
def test_what_is_for_nobody_is_a_usage_error(words):
    with pytest.raises(click.UsageError):
        canary_of(words)
