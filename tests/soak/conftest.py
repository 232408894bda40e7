"""The fixtures of the integration tests: each test has a runtime directory of its own, and leaves nothing over."""

from tests.integration.conftest import ended_tasks, pytest_itemcollected, runtime_directory, temporary_files

__all__ = ["ended_tasks", "pytest_itemcollected", "runtime_directory", "temporary_files"]
