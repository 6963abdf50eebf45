"""Check that another revision and the checkout produce identical bytes for a small study on this machine.

    python benchmarks/same_bytes.py REVISION [--json] [--folder DIR]

The revision is checked out in a worktree and installed, at the versions of its constraints.txt, in a separate virtual
environment. Both sides then make the same four grids: native tickets with every control and every kind of connectivity; masks that
change in training; iterative rounds with different sparsities by network; pooled masks, transfer between tasks of different
shapes, layer normalization and two environments side by side. All files that are reproducible according to docs/files.md
are compared byte by byte, and so are the CSV files of `lth run`. In tables of metrics (tidy.csv, analysis.csv, layers.csv), all
rows that do not measure time must be present, unchanged and in the same order; new metrics may be between them. Files that the
revision does not write are listed as `added`. The exit status is 1 if any file differs. Bytes differ between processors, so a
fixed list of hashes would not work.

With `--folder`, the worktree, the environment and the revision's results are kept there and reused.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import report

ROOT = Path(__file__).resolve().parents[1]
CLOCK = {"timings.json", "attempts.jsonl", "failures.jsonl", "progress.json", ".lock", ".verified.json", ".tidy.json"}
CLOCK |= {"events", "logs", "last-run.yaml", "question.json"}
CLOCK |= {"report.html", "returns.png"}  # the page shows seconds; the picture is compared through its numbers
CONTROLS = ["reinit", "shuffled", "permuted", "inverted", "random-erk", "small-dense", "retrained"]
BASE = {
    "tasks": ["Pendulum-v1"],
    "seeds": [3],
    "workers": 2,
    "training": {"env_steps": 900, "start_steps": 150, "segment_steps": 300, "batch_size": 32, "checkpoint_every": 1},
    "sac": {"actor_hidden": [24, 16], "critic_hidden": [24, 16]},
    "evaluation": {"every": 300, "episodes": 2},
}


def grids() -> dict[str, dict]:
    """Return the configs of both sides by name, without their output folders."""
    small = {"num_gradient_batches": 6, "gradient_batch_size": 32}
    kinds = ["parent", "methods", "rounds", "noise"]
    lines = {"connectivity": kinds, "connectivity_points": 3, "connectivity_episodes": 1}
    methods = ["magnitude", "gradient", "taylor", "fisher", "snip", "grasp", "synflow", "random", "shuffled"]
    return {
        "native": {
            **BASE,
            "pruning": {**small, "methods": methods, "sparsity": 0.8, "controls": CONTROLS, "rewind_steps": [0, 300]},
            "analysis": lines,
        },
        "scheduled": {
            **BASE,
            "pruning": {
                **small,
                "methods": ["gradual", "set", "rigl"],
                "sparsity": [{"actor": 0.9, "critic": 0.6}],
                "exclude": ["output"],
                "mask_every": 50,
                "rewind_steps": [0, "none"],
            },
        },
        "iterative": {
            **BASE,
            "sac": {**BASE["sac"], "max_grad_norm": 1.0, "normalize_obs": False},
            "pruning": {
                **small,
                "methods": ["magnitude", "taylor"],
                "sparsity": [{"actor": 0.9, "critic": 0.7}],
                "rounds": 2,
                "allocation": "erk",
                "exclude": ["critic/q1/output"],
                "controls": ["reinit", "permuted", "inverted"],
                "rewound": ["optimizer", "replay_buffer"],
            },
            "analysis": {**lines, "connectivity": ["parent", "rounds"]},
        },
        "pooled": {
            **BASE,
            "sac": {**BASE["sac"], "critic_layer_norm": True, "reward_scale": 0.5},
            "training": {**BASE["training"], "num_envs": 2},
            "pruning": {
                **small,
                "methods": ["magnitude", "taylor", "synflow"],
                "sparsity": 0.7,
                "pool": "together",
                "allocation": {"output": 0.2, "critic/q2": 0.75},
                "transfer_from": ["MountainCarContinuous-v0"],
                "transfer_weights": "both",
                "transfer_mismatch": "dense",
            },
        },
    }


def make(python: str, checkout: Path, folder: Path) -> None:
    """Make all grids with an interpreter that has a checkout installed."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    for name, config in grids().items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps({**config, "output_dir": str(folder / name)}))
        for command in ("run", "report"):
            done = subprocess.run(
                [python, "-m", "lth", command, str(file)], env=environment, cwd=folder, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"lth {command} of {name} in {checkout} failed:\n{done.stdout}{done.stderr}")


def prepare(revision: str, folder: Path) -> tuple[str, Path]:
    """Check a revision out and install it; returns its interpreter and its checkout."""
    tree, venv = folder / "worktree", folder / "venv"
    git = ["git", "-C", str(ROOT)]
    if not tree.exists():
        subprocess.run([*git, "worktree", "prune"], check=True)
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), revision], check=True)
    python = str(venv / "bin" / "python")
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-e", str(tree), "-c", str(tree / "constraints.txt")], check=True)
    return python, tree


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents that must be equal, by path, without revisions and times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if not path.is_file() or {*names} & CLOCK or (len(names) == 1 and path.suffix == ".json"):
            continue
        data = path.read_bytes()
        if path.name == "provenance.json":
            about = json.loads(data)
            about.pop("git_revision")
            about["versions"].pop("lth")
            data = json.dumps(about, sort_keys=True).encode()
        if path.name == "tidy.csv":
            data = b"\n".join(line for line in data.splitlines() if b"_seconds," not in line)
        found["/".join(names)] = data
    return found


def same(name: str, before: bytes, after: bytes | None) -> bool:
    """Return whether a file is unchanged; for a table of metrics, whether all its rows still exist in the same order."""
    if after is None or Path(name).name not in ("tidy.csv", "analysis.csv", "layers.csv"):
        return before == after
    left = iter(after.splitlines())
    return all(row in left for row in before.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="a Git revision, such as HEAD~1 or a hash")
    parser.add_argument("--folder", type=Path, help="keep the revision's worktree, environment and results here")
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    options = parser.parse_args()
    resolve = ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{options.revision}^{{commit}}"]
    revision = subprocess.run(resolve, capture_output=True, text=True, check=True).stdout.strip()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="lth-bytes-"))).resolve() / revision[:12]
    folder.mkdir(parents=True, exist_ok=True)
    before, after = folder / "before", folder / "after"
    python, tree = prepare(revision, folder)
    if not (before / "made").exists():
        shutil.rmtree(before, ignore_errors=True)
        make(python, tree, before)
        (before / "made").touch()
    shutil.rmtree(after, ignore_errors=True)
    make(python, ROOT, after)
    (after / "made").touch()
    one, other = contents(before), contents(after)
    different = [name for name in one if not same(name, one[name], other.get(name))]
    added = sorted(other.keys() - one.keys())
    results = {"revision": revision, "files": len(one), "differences": len(different), "first": different[:10]}
    results |= {"added": len(added), "first added": added[:10]}
    report(results, options.json)
    if not options.folder:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)
        shutil.rmtree(folder.parent)
    sys.exit(bool(different))


main()
