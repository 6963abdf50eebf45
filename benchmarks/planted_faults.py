"""Mutation test: plant faults in the source, one at a time, and check that the tests catch them.

    python benchmarks/planted_faults.py [REVISION] [--json] [--only NAME]

Each fault is a small change of one line: an off-by-one in a count, a mask that is not applied to targets, a seed that is reused.
The fault is planted in a copy of the checkout (or of a revision), and its test files are run until one test fails. `caught` counts
the detected faults; the others are listed, and the exit status is 1 if there are any. Lines that changed between revisions are
listed in all their forms. Takes about half an hour.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import report

ROOT = Path(__file__).resolve().parents[1]


class Fault(NamedTuple):
    """A line, its replacement, and the test files (test_NAME.py) that should detect the change."""

    old: str
    new: str
    tests: str
    also: tuple[tuple[str, str], ...] = ()
    """The same fault for other revisions, in which the line is different."""


FAULTS = {
    "one weight too many is pruned": Fault(
        "return max(round(sparsity * size), already_pruned)",
        "return max(round(sparsity * size) + 1, already_pruned)",
        "masks",
    ),
    "what was pruned before may come back": Fault(
        "before = [_known(leaf).astype(bool) for leaf in treedef.flatten_up_to(prev_mask)]",
        "before = [np.ones(leaf.shape, bool) for leaf in leaves]",
        "masks contract",
        also=(
            ("for leaf in leaves] if prev_mask is None else treedef.flatten_up_to(prev_mask)", "for leaf in leaves]"),
        ),
    ),
    "what compiled functions prune first among ties is another weight": Fault(
        "self.from_the_end[of_group] = np.arange(len(of_group))[::-1]",
        "self.from_the_end[of_group] = np.arange(len(of_group))",
        "masks",
    ),
    "one weight too few is pruned among ties": Fault(
        "marked[tied[len(tied) - missing :]] = True",
        "marked[tied[len(tied) - missing + 1 :]] = True",
        "masks contract",
    ),
    "taylor forgets the weight": Fault(
        "return abs(weights * gradients)",
        "return abs(gradients)",
        "criteria gradients",
        (("return jnp.abs(weights * gradients)", "return jnp.abs(gradients)"),),
    ),
    "the mean of the gradients is their sum": Fault(
        "return jax.tree.map(lambda s: s / num_batches.astype(s.dtype), sums)",
        "return sums",
        "gradients contract",
    ),
    "the optimizer sees gradients of pruned weights": Fault(
        "inner.update(apply_mask(updates, state.mask), state.inner, params, **extra)",
        "inner.update(updates, state.inner, params, **extra)",
        "masks contract",
        (
            (
                "inner.update(apply_mask(updates, state.mask), state.inner, params)",
                "inner.update(updates, state.inner, params)",
            ),
        ),
    ),
    "targets are not masked": Fault(
        "targets={name: apply_mask(target, masks[name]) for name, target in state.targets.items()},",
        "targets=dict(state.targets),",
        "tickets",
    ),
    "every segment has the seed of the first": Fault(
        "return np.random.SeedSequence([seed, segment, stream, *([1] if fresh_noise else [])])",
        "return np.random.SeedSequence([seed, 0, stream, *([1] if fresh_noise else [])])",
        "sac envs",
        (
            (
                "return np.random.SeedSequence([seed, segment, stream, *([1] if again else [])])",
                "return np.random.SeedSequence([seed, 0, stream, *([1] if again else [])])",
            ),
        ),
    ),
    "truncation counts as the end of the task": Fault(
        "rows = pack_rows(Batch(observations, actions, rewards, next_observations, terminated))",
        "rows = pack_rows(Batch(observations, actions, rewards, next_observations, done))",
        "sac",
    ),
    "a transition ends in the next episode": Fault(
        'next_observations[i] = info["final_obs"][i]', "next_observations[i] = after[i]", "sac envs"
    ),
    "Meta-World's last observation is this one": Fault(
        "observation[18:36] = self._prev_obs", "observation[18:36] = now", "fast_metaworld"
    ),
    "a checksum is not compared": Fault(
        "if not words or words[0] != hashlib.sha256(data).hexdigest():", "if not words:", "bad_input"
    ),
    "a dense run without its replay buffer is finished": Fault(
        "if stamp is None or (isinstance(spec, DenseSpec) and not replay_file(run).exists()):",
        "if stamp is None:",
        "plan tickets bad_input",
        (
            (
                "if not (run / SPEC).exists() or (isinstance(spec, DenseSpec) and not replay_file(run).exists()):",
                "if not (run / SPEC).exists():",
            ),
        ),
    ),
    "the normalizer is never rewound": Fault('if "normalizer" not in spec.rewound:', "if True:", "controls"),
    "the first evaluation counts as the last": Fault(
        "metrics[row.metric][0] <= row.env_steps",
        "metrics[row.metric][0] >= row.env_steps",
        "cli",
        (("end = max(env_steps for env_steps, _, _ in found)", "end = min(env_steps for env_steps, _, _ in found)"),),
    ),
    "shuffled masks keep what should be pruned": Fault(
        "return [int(np.sum(piece == 0)) for row, leaf in leaves for piece in split(leaf, row.stack_axes)]",
        "return [int(np.sum(piece != 0)) for row, leaf in leaves for piece in split(leaf, row.stack_axes)]",
        "controls masks",
        (
            (
                "[int(np.sum(np.asarray(leaf) == 0)) for leaf, flag in leaves if flag]\n    return prune_lowest(random_scores",
                "[int(np.sum(np.asarray(leaf) != 0)) for leaf, flag in leaves if flag]\n    return prune_lowest(random_scores",
            ),
        ),
    ),
    "both halves of the batches are the same": Fault(
        "for half in (0, 1)\n    )", "for half in (0, 0)\n    )", "analysis gradients"
    ),
    "the target network of DQN is one update late": Fault(
        "due = (state.grad_steps + 1) % c.target_every == 0",
        "due = state.grad_steps % c.target_every == 0",
        "sbx_others probes",
    ),
    "batches are drawn from the whole ring": Fault(
        "jax.random.randint(key, (n,), 0, state.size, jnp.int32)",
        "jax.random.randint(key, (n,), 0, state.rows.shape[0], jnp.int32)",
        "sac gradients",
    ),
    "a level is decided without the sets that it is in": Fault(
        "found[i] = max(found[i], p)",
        "found[i] = p",
        "stats",
    ),
    "the spec's version is not hashed": Fault(
        '{"spec_version": str(SPEC_VERSION), "stage": _dump(self.stage)}',
        '{"stage": _dump(self.stage)}',
        "spec",
        (('{"spec_version": SPEC_VERSION, "stage": spec.stage, **fields}', '{"stage": spec.stage, **fields}'),),
    ),
    "the normalizer forgets how much it has seen": Fault(
        "return Normalizer(normalizer.mean + delta * (n / seen), squares / seen, jnp.minimum(seen, MOST_SEEN))",
        "return Normalizer(normalizer.mean + delta * (n / seen), squares / seen, seen - n + 1)",
        "sac",
    ),
    "the share that RigL replaces does not fall": Fault(
        "share = self.fraction / 2 * (1 + jnp.cos(jnp.pi * self.step / self.until))",
        "share = self.fraction",
        "contract scheduled",
    ),
    "a constant unit counts as alive": Fault(
        "return ~(self.kept & self.fed[:, None]).any(axis=0)", "return ~self.kept.any(axis=0)", "analysis"
    ),
}


def plant(tree: Path, fault: Fault) -> str:
    """Change the line of a fault and return the path of its file."""
    for old, new in ((fault.old, fault.new), *fault.also):
        for path in sorted((tree / "src").rglob("*.py")):
            text = path.read_text()
            if old in text:
                if text.count(old) > 1:
                    raise SystemExit(f"{path} has this line more than once: {old}")
                path.write_text(text.replace(old, new))
                return str(path.relative_to(tree))
    raise SystemExit(f"no file has this line: {fault.old}")


def caught(tree: Path, fault: Fault) -> str:
    """Return the first test that fails with the fault planted, or an empty string."""
    names = fault.tests.split()
    files = [str(path) for name in names for path in sorted((tree / "tests").rglob(f"test_{name}.py"))]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "JAX_COMPILATION_CACHE_DIR": str(tree.parent / "compiled"),
    }
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1) and not failed:
        raise SystemExit(f"pytest could not run:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return failed[0].split(" - ")[0].split(" ", 1)[1] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", nargs="?", help="a Git revision (default: the files as they are)")
    parser.add_argument("--only", help="plant the faults whose name holds this")
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    options = parser.parse_args()
    missed, found = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in FAULTS.items():
            if options.only and options.only not in name:
                continue
            tree = Path(folder) / "checkout"
            shutil.rmtree(tree, ignore_errors=True)
            if options.revision:
                subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
                subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", options.revision], check=True)
            else:
                command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
                for file in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0"):
                    if file and (ROOT / file).exists():
                        (tree / file).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(ROOT / file, tree / file)
            file, started = plant(tree, fault), time.perf_counter()
            test = caught(tree, fault)
            found += bool(test)
            missed += [] if test else [name]
            seconds = time.perf_counter() - started
            print(f"{name} ({file}): {test or 'NOT CAUGHT'}, {seconds:.0f} s", file=sys.stderr, flush=True)
    report({"faults": found + len(missed), "caught": found, "missed": missed}, options.json)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
