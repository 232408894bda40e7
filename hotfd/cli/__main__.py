"""``python -m hotfd.cli``: the same as ``hotfd``, for environments whose scripts are not on the path."""

from hotfd.cli.group import main

main(prog_name="hotfd")
