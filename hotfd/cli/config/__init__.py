"""``hotfd config``: the releases of a service's configuration, and what servers make of them.

Each command's module is imported when that command runs.
"""
