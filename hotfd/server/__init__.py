"""The asyncio server: accepts, serves, and moves its sessions.

:mod:`~hotfd.server.stream` is one socket with its buffers, :mod:`~hotfd.server.connection` what a handler
sees of it, :mod:`~hotfd.server.engine` all of them together with the listeners;
:mod:`~hotfd.server.cutover` drives a handoff in the old process, :mod:`~hotfd.server.takeover` in the new.
"""
