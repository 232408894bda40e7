"""What to do about a reason code, in one line each. docs/operators.md explains them at length."""

from __future__ import annotations

ADVICE = {
    # Sessions that did not move; the old process serves them.
    "no-boundary": "busy until the boundary timeout; raise --boundary-timeout, or --laggards close",
    "handler-tasks": "the handler has tasks of its own; start them with conn.spawn, or end them at a boundary",
    "not-movable": "the handler said conn.movable = False; the log of the server has its reason",
    "state-encode": "the state holds a value that cannot travel; the log names the field",
    "state-roundtrip": "the state would not come back as it went; the log names the field",
    "state-version": "the new version does not read this version of the state; give its type an upgrade()",
    "state-downgrade": "the older version cannot hold what is in the state; the log names the field",
    "state-decode": "the new version could not read the state; the log names the field",
    "config-unreadable": "the new version cannot read the release that the session holds; give its hotfd.Config an upgrade=",
    "descriptors": "descriptors were lost on the way to the new process; raise LimitNOFILE= or ulimit -n",
    "framing": "the new version frames differently and the session had undelivered bytes; hand off again later",
    "stale": "the session went on with the data from before the handoff, as --on-loss stale asks for",
    "lost-in-new-process": "the new process died while it handled the session; its log says why",
    # Handoffs that did not happen, or were undone; the old process serves.
    "descriptor-limit": "too few descriptors in the new process; raise LimitNOFILE= or ulimit -n (hotfd doctor --pid)",
    "unsupervised": "the old process must not exit here; use hotfd run, or Type=notify, or --force",
    "handoff-in-progress": "another handoff or its probation is going on; wait for it (hotfd status --pid)",
    "new-exited": "the new process exited; run its command by hand and look at its log",
    "new-hung": "the new process stopped answering; look at its log, and at what it blocks on",
    "not-ready": "the new process was not ready in time; raise --deadline, or make its start quicker",
    "unhealthy": "the new process's health check failed; its log says why",
    "not-found": "the program, or its directory, is not there; correct the command after --",
    "same-code": "going back would not run what ran then; put its files back, or --force",
    "nothing-to-roll-back-to": "hotfd history lists what ran; name one with --to, or hand off to the version you want",
    "unknown-generation": "hotfd history lists the generations that are remembered",
    "config-unavailable": "the new version has no release of a module to begin sessions with; hotfd config publish, or initial=",
    "cannot-listen": "the new version listens where it cannot; correct its addresses",
    "export-hung": "export_state did not return; make it quicker, or raise --deadline",
    "background-task": "a background task does not end when it is cancelled; let it, or make its cleaning-up quicker",
    "freeze-failed": "the program's on_freeze failed; the log of the server has the traceback",
    "too-large": "the state's types do not fit the handoff channel; declare fewer or simpler ones",
    "stopping": "the server was told to stop during the handoff; start it again",
    "stopped": "the new process was told to stop before it had proved itself; hand over again",
    "cannot-start": "the program cannot be executed; correct the command after --",
    "superseded": "what had stayed behind is asked again by the newest process",
    "protocol": "the two processes do not understand each other; use the same major version of hotfd on both sides",
    "incompatible": "this command and the server differ; use the hotfd of the server's own environment",
    "handed-over": "this process has a successor already; hand that one over",
    "not-serving": "the server is still starting, or stopping; hotfd status --pid says which",
    "no-channel": "the process was started as if by a handoff and was not; start it without HOTFD_ variables",
    "unknown-handoff": "the process that was asked knows no such handoff; look with hotfd ps and hotfd status",
    "shutting-down": "the server is stopping; hand off to what replaces it",
    "internal": "a defect in the server or in hotfd; the log of the server has the traceback",
    # What this command could not find or learn.
    "no-such-process": "hotfd ps lists the servers",
    "not-a-server": "that process has no control socket; hotfd ps lists the servers",
    "not-permitted": "run as the user of the server, or as root",
    "unsafe-directory": "the runtime directory must be its owner's alone; see the message",
    "impostor": "another process answers at that socket; try again, and look who made it",
    "unresponsive": "the server is stopped or its event loop hangs; look at it with py-spy or gdb",
    "too-many-clients": "too many control clients; end those that wait",
    "old-exited": "the old process ended before it had a successor; start the server",
    "both-exited": "both processes have ended; start the server, and look at its log",
    "result-unknown": "nobody could tell how it ended; look with hotfd ps and hotfd status",
}


def advice(code: str) -> str | None:
    """Return what to do about a reason; ``code`` may be followed by ``: detail``."""
    return ADVICE.get(code.partition(":")[0])
