"""Shared code of the benchmarks: set threads before JAX is imported, interleave repeats, print results."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.threads import set_threads


def arguments(description: str, threads: int = 1) -> argparse.ArgumentParser:
    """Set the number of threads and return a parser with `--json`. Call it before JAX is imported."""
    set_threads(threads)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    return parser


def interleave(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Time each side in turn, `repeats` times over; returns the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def processor() -> str:
    """Return the processor's name, and whether it has AVX-512."""
    from src.lth.exporting.contract import processor as name

    path = Path("/proc/cpuinfo")
    wide = path.exists() and "avx512f" in path.read_text(errors="replace")
    return f"{name()}{' (AVX-512)' if wide else ''}"


def report(results: dict[str, Any], as_json: bool) -> None:
    """Print results, as one line of JSON or as lines."""
    if as_json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
