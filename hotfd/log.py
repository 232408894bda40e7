"""Structured logging: one event, one line, ``name key=value ...``, and the same as fields on the record.

Values are counts, reason codes, addresses, pids and times. State, keys and payloads are never passed
here: what cannot be logged by mistake is what no call site hands over.
"""

from __future__ import annotations

import json
import logging
import sys

logger = logging.getLogger("hotfd")


def event(level: int, name: str, /, exc_info: BaseException | None = None, **fields: object) -> None:
    """Log one event.

    Args:
        level: a :mod:`logging` level.
        name: the event's name, kebab-case, stable across releases.
        exc_info: an exception whose traceback belongs to the event.
        fields: what happened, as plain values; also available as ``record.hotfd`` to formatters.
    """
    if logger.isEnabledFor(level):
        text = " ".join((name, *(f"{key}={_quoted(value)}" for key, value in fields.items())))
        logger.log(level, "%s", text, exc_info=exc_info, extra={"hotfd": {"event": name, **fields}})


def _quoted(value: object) -> str:
    text = str(value)
    # In ASCII: what is not printable may drive the terminal that shows the log, or be half a character of a path.
    return text if text.isprintable() and not (set(text) & set(' "=')) and text else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, pid, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields = getattr(record, "hotfd", None) or {"event": "message", "message": record.getMessage()}
        line = {"time": record.created, "level": record.levelname, "pid": record.process, **fields}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(style: str = "text", level: int = logging.INFO) -> None:
    """Send hotfd's log to standard error, unless the program has set up logging itself.

    Args:
        style: ``text`` or ``json``.
        level: the least level that is shown.
    """
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s hotfd[%(process)d] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
