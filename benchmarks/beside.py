"""Compare a benchmark with the same benchmark at another revision of the repository."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import report

ROUNDS = 3


def compare(script: str, revision: str, words: list[str], prefix: str, as_json: bool) -> None:
    """Print the ratios of the medians of all figures whose names begin with `prefix`, and exit."""
    here = Path(script).resolve().parents[1]
    with tempfile.TemporaryDirectory() as place:
        there = Path(place) / "there"
        subprocess.run(
            ["git", "-C", here, "worktree", "add", "--detach", there, revision], check=True, capture_output=True
        )
        try:
            found: dict[Path, list[dict[str, float]]] = {here: [], there: []}
            for _ in range(ROUNDS):
                for root in found:
                    command = [sys.executable, root / "benchmarks" / Path(script).name, "--json", *words]
                    done = subprocess.run(
                        command, cwd=root, env=_with(root), check=True, capture_output=True, text=True
                    )
                    found[root].append(json.loads(done.stdout.splitlines()[-1]))
        finally:
            subprocess.run(["git", "-C", here, "worktree", "remove", "--force", there], check=True)
    names = [name for name in found[here][0] if name.startswith(prefix) and name in found[there][0]]
    medians = {root: {n: statistics.median(run[n] for run in runs) for n in names} for root, runs in found.items()}
    report({f"{n.removeprefix(prefix)}_beside": medians[here][n] / medians[there][n] for n in names}, as_json)
    sys.exit()


def _with(root: Path) -> dict[str, str]:

    return {**os.environ, "PYTHONPATH": str(root / "src")}
