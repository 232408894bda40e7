"""The pytest plugin: the fixture ``hotfd_serve`` runs a test once as it is and once handed over.

pytest imports this module at every start, in projects that never use it too: it imports pytest and nothing
that would be slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from hotfd.testing.harness import Harness

_FIXTURE = "hotfd_serve"
_WAYS = {"never": "steady", "every": "handed-over"}


class Serve:
    """What the fixture ``hotfd_serve`` is: :func:`hotfd.testing.serve`, with ``handoffs`` set by the run.

    Args:
        handoffs: ``never`` or ``every``.
    """

    def __init__(self, handoffs: str) -> None:
        self.handoffs = handoffs

    def __call__(self, handler: Any, **options: Any) -> AbstractAsyncContextManager[Harness]:
        """Serve a handler; takes what :func:`hotfd.testing.serve` takes.

        A ``handoffs`` of the test's own, as ``handoffs=2``, counts in the run that hands over; the steady run
        stays steady.
        """
        from hotfd.testing.harness import serve

        if self.handoffs == "never":
            options["handoffs"] = "never"
        return serve(handler, **{"handoffs": self.handoffs, **options})

    def run(self, handler: Any, test: Callable[[Harness], Awaitable[None]], **options: Any) -> None:
        """Do the same from a test that is no coroutine, in an event loop of its own.

        Args:
            handler: as above.
            test: a coroutine function; called with the harness.
            options: as above.
        """
        import asyncio

        async def main() -> None:
            async with self(handler, **options) as harness:
                await test(harness)

        asyncio.run(main())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--hotfd-handoffs``."""
    group = parser.getgroup("hotfd")
    group.addoption(
        "--hotfd-handoffs",
        choices=["both", *_WAYS],
        default="both",
        help="run tests that use hotfd_serve with a handover at every frame boundary, with none, or both ways",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses the fixture in the ways that were asked for."""
    if _FIXTURE in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--hotfd-handoffs")
        ways = list(_WAYS) if wanted == "both" else [wanted]
        metafunc.parametrize(_FIXTURE, ways, ids=[_WAYS[way] for way in ways], indirect=True)


@pytest.fixture
def hotfd_serve(request: pytest.FixtureRequest) -> Serve:
    """Serve a handler in the test, with its connections handed over at every frame boundary, or not at all."""
    return Serve(request.param)
