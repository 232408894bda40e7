"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A property that holds late, on a busy machine, holds. The rest is as Hypothesis would have it here, or in CI.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")
