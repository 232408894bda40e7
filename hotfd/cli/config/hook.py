"""``hotfd config hook``: installs what checks commits, and publishes them."""

from __future__ import annotations

from typing import Literal

import click

from hotfd.cli.config.options import STORE
from hotfd.cli.group import usage_error
from hotfd.cli.output import printable


@click.command("hook")
@click.argument("kind", type=click.Choice(["git", "svn"]))
@click.argument("repository", metavar="REPO")
@click.option("--store", "store_url", envvar=STORE, show_envvar=True, metavar="URL", help="Store of the releases.")
@click.option("--path", default="", metavar="DIR", help="Directory in the repository whose directories are modules.")
@click.option("--branch", metavar="NAME", help="Branch of git that is published; else the one that is checked out.")
@click.option("--allow-scripts", is_flag=True, help="Run the scripts of modules; whoever commits writes them.")
@click.option("--remove", is_flag=True, help="Remove the hooks again.")
def command(
    kind: Literal["git", "svn"],
    repository: str,
    store_url: str | None,
    path: str,
    branch: str | None,
    allow_scripts: bool,
    remove: bool,
) -> None:
    """Install two hooks in REPO: one refuses what cannot be published, one publishes what was committed.

    Neither holds who commits for more than two seconds. Hooks that are somebody else's are left alone.
    """
    from hotfd.publish import install

    if remove:
        for removed in install.remove(kind, repository) or ["nothing"]:
            click.echo(f"removed {printable(removed)}")
        return
    if store_url is None:
        usage_error(f"Name the store with --store URL, or with {STORE} in the environment.")
    if kind == "svn" and branch is not None:
        usage_error("Subversion has no branches but directories: name one with --path.")
    settings = install.settings_of(kind, repository, store_url, path, branch, allow_scripts)
    for written in install.install(settings):
        click.echo(f"wrote {printable(written)}")
