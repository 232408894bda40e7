"""Moves wire messages and descriptors between two processes, and owns what is in flight.

:mod:`~hotfd.transfer.channel` carries messages, :mod:`~hotfd.transfer.offer` packs sessions into parts
and puts them together again, :mod:`~hotfd.transfer.touch` is the memory in which the new process says
what it has touched, :mod:`~hotfd.transfer.process` starts and watches the other process.
"""
