"""The log: what it is given cannot drive the terminal that shows it, and never raises."""

from __future__ import annotations

import io
import json
import logging

import pytest

from hotfd import log

NASTY = ["\x1b[2J", "\x9b2J", "a\u202eb", "a\nb", "a\rb", "path\udcff", "\x7f"]


@pytest.mark.parametrize("value", NASTY)
def test_a_value_that_is_not_printable_is_written_in_ascii(value: str, caplog: pytest.LogCaptureFixture) -> None:
    log.event(logging.WARNING, "seen", value=value)
    [text] = [record.getMessage() for record in caplog.records]
    assert text.isprintable() or "\x7f" in value
    assert json.loads(text.partition("=")[2]) == value


@pytest.mark.parametrize("value", NASTY)
def test_json_of_such_a_value_is_one_line_that_gives_it_back(value: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.JsonFormatter())
    log.logger.addHandler(handler)
    try:
        log.event(logging.WARNING, "seen", value=value)
    finally:
        log.logger.removeHandler(handler)
    assert stream.getvalue().isascii()
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["value"] == value


def test_what_needs_no_quotation_marks_has_none(caplog: pytest.LogCaptureFixture) -> None:
    log.event(logging.WARNING, "seen", peer="127.0.0.1:5", count=3, word="größe", words="two of them", empty="")
    assert caplog.records[0].getMessage() == 'seen peer=127.0.0.1:5 count=3 word=größe words="two of them" empty=""'
