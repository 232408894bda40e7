"""The fixtures of the integration tests: each test has a runtime directory of its own, and leaves nothing over."""

from tests.integration.conftest import runtime_directory

__all__ = ["runtime_directory"]
