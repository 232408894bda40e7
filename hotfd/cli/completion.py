"""``hotfd completion``: what a shell needs to complete hotfd's command line."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hotfd.cli.group import Failure, main

HELP = """Print the completion script of a shell.

\b
bash  source <(hotfd completion bash)                      in ~/.bashrc
zsh   source <(hotfd completion zsh)                       in ~/.zshrc
fish  hotfd completion fish > ~/.config/fish/completions/hotfd.fish
"""


@click.command("completion", help=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of ``shell``."""
    completion = get_completion_class(shell)
    if completion is None:
        raise Failure(f"this version of click has no completion for {shell}")
    click.echo(completion(main, {}, "hotfd", "_HOTFD_COMPLETE").source())
