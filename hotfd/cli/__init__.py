"""The ``hotfd`` command.

Nothing here loads asyncio or the server: an operator's command should answer at once, and a deploy script
may call it many times. Each command's module is imported when that command runs.
"""

from hotfd.cli.group import main

__all__ = ["main"]
