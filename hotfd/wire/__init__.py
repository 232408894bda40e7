"""The handoff protocol, sans-IO: messages, records, and the state machine of either side.

Nothing in this package touches a socket, a descriptor or a clock. :mod:`hotfd.transfer` carries the
messages, :mod:`hotfd.server` decides when to send them.
"""
