"""Record inputs and findings."""

import json
import random
import re
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path

from lth.text import plain

SAVED = 3
"""Findings of one kind that are saved; the others are counted."""


class Record:
    """Counts inputs and saves findings in a folder."""

    def __init__(self, folder: Path, what: str, seed: int):
        self.folder, self.what, self.seed = folder, what, seed
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def begin(self, data: bytes) -> None:
        """Save an input before it is tried, so that it is known if the process dies."""
        self.counts["inputs"] += 1
        (self.folder / "current").write_bytes(data)
        if self.counts["inputs"] % 200 == 0:
            self.keep_counts()

    def took(self, seconds: float) -> None:
        """Record the time of an input or a command."""
        self.counts["slowest_ms"] = max(self.counts["slowest_ms"], round(seconds * 1000))

    def finding(self, kind: str, detail: str = "") -> None:
        """Save the current input, and print how to replay it."""
        self.kinds[kind] += 1
        if self.kinds[kind] <= SAVED:
            name = re.sub(r"[^a-zA-Z0-9]+", "-", kind)[:90]
            path = self.folder / f"{name}-{self.seed}-{self.counts['inputs']}"
            shutil.copy(self.folder / "current", path)
            again = f"python benchmarks/fuzz.py {self.what} --replay {path}"
            print(f"FINDING {kind}\n  {plain(detail[-1200:])}\n  {again}", file=sys.stderr, flush=True)

    def keep_counts(self) -> None:
        """Write the counts for the parent process."""
        counts = {"counts": self.counts, "findings": self.kinds}
        (self.folder / "counts.json").write_text(json.dumps(counts))


def site(error: BaseException) -> str:
    """Return the type of an error and the last line of lth in its traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/lth/" in f.filename]
    return f"{type(error).__name__} {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else repr(error)
