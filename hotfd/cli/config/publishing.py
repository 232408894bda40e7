"""What the commands that publish share: their options, and what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from hotfd.cli.group import usage_error
from hotfd.cli.output import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hotfd.config.rollout import For
    from hotfd.errors import ConfigError
    from hotfd.publish.publisher import Published

MAX_PERCENT: Final = 100.0


def repository_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command what says which modules of a repository it is about, and whether scripts are run."""
    for option in (
        click.option(
            "--path", default="", metavar="DIR", help="Directory in the repository whose directories are modules."
        ),
        click.option("--module", "modules", multiple=True, metavar="NAME", help="Only this module; can be repeated."),
        click.option("--allow-scripts", is_flag=True, help="Run the scripts of modules; whoever commits writes them."),
        click.option("--rewritten", is_flag=True, help="Accept a history that does not hold what was published."),
    ):
        command = option(command)
    return command


def canary_of(wanted: Sequence[str]) -> For | None:
    """Return for whom a canary is: ``zone=NAME`` and ``N%``, as often as there are zones; None when nothing is asked."""
    from hotfd.config.release import check_name
    from hotfd.config.rollout import For
    from hotfd.errors import ConfigError

    zones, share = [], 0.0
    for word in wanted:
        if word.startswith("zone="):
            try:
                zones.append(check_name(word.removeprefix("zone="), "zone"))
            except ConfigError as error:
                usage_error(f"--canary {word}: {error}")
        elif word.endswith("%"):
            if share:
                usage_error("--canary: one share, as in 5%")
            share = _share(word)
        else:
            usage_error(f"--canary {word!r}: zone=NAME, or a share of new sessions such as 5%")
    return For(tuple(dict.fromkeys(zones)), share) if wanted else None


def _share(word: str) -> float:
    try:
        percent = float(word.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent <= MAX_PERCENT:  # written so that NaN does not pass
        usage_error(f"--canary {word!r}: a share is more than 0% and at most 100%")
    return percent / MAX_PERCENT


def note(line: str) -> None:
    """Print a note, which is no result."""
    click.echo(f"hotfd: {printable(line)}", err=True)


def report(published: Sequence[Published], error: ConfigError | None, *, as_json: bool, verb: str) -> None:
    """Print what was published, also when something else was refused.

    Args:
        published: what was published, in order.
        error: why something was not, or None.
        as_json: as one JSON object.
        verb: what has been done, such as ``published``.
    """
    from hotfd.publish.faults import RevisionRefused
    from hotfd.publish.session import described

    lines = error.lines() if isinstance(error, RevisionRefused) else [str(error)] if error is not None else []
    if as_json:
        print_json({"releases": published, "refused": lines})
    else:
        for one in published:
            click.echo(printable(f"{verb} {described(one)}"))
        if not published and error is None:
            click.echo("nothing to be published")
    if isinstance(error, RevisionRefused):
        click.echo(f"hotfd: {printable(error.summary())}", err=True)
        for line in lines:
            for part in line.split("\n"):
                click.echo(f"  {printable(part)}", err=True)
