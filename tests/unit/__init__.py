"""Tests of one process. What tests of stores share asserts as tests do, and explains its failures as they do."""

import pytest

pytest.register_assert_rewrite("tests.unit.config_stores")
