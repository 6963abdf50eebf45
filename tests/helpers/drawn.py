"""How many examples Hypothesis draws."""

import os

from hypothesis import settings

FULL = "LTH_TEST_FULL"
"""In the environment of a session with --full (conftest.py)."""


def examples(quick, full):
    """Return settings for so many examples, which each take long; more of them with --full."""
    return settings(max_examples=full if os.environ.get(FULL) else quick, deadline=None)
