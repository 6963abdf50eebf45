"""How long XLA has compiled in this process.

A program is compiled once for each process, so the first runs of a kind wait for it and later ones do not. To compare the seconds
of two runs, this is taken off.
"""

import jax

_taken: list[float] = []


def _add(event: str, duration_secs: float, **about: str | int) -> None:
    del about
    if event.startswith("/jax/core/compile/"):
        _taken.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_add)


def compile_seconds() -> float:
    """Return the seconds that this process has traced, lowered and compiled for since it began."""
    return sum(_taken)
