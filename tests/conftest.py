"""What every test has: how hard the random ones search, and a seed that a failure can be replayed from."""

import os
import random

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a shared machine pauses when it likes, and a time limit stands on every test already.
settings.register_profile(
    "quick",
    deadline=None,
    max_examples=100,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("quick"), max_examples=5000)
settings.load_profile("quick")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test's own: new each time, printed when the test fails; HOLDFAST_SEED replays one."""
    chosen = int(os.environ.get("HOLDFAST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"replay with: HOLDFAST_SEED={chosen} pytest '{request.node.nodeid}'")
    return chosen
