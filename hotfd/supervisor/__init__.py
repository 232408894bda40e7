"""``hotfd run``: a stable parent of servers that are replaced under it.

:mod:`~hotfd.supervisor.worker` decides, for one server and its successors, and does no I/O;
:mod:`~hotfd.supervisor.service` does the same for all workers together. :mod:`~hotfd.supervisor.supervisor`
carries out what they decide: it starts, watches, signals and reaps processes, and speaks with the service manager,
with its servers and with operators.
"""
