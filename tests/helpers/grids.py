"""Folders of results: what of two must be alike; and whole grids written in seconds by the store's own functions, made up."""

import jax
import numpy as np

from lth.algorithms.architecture import Spaces
from lth.algorithms.tickets import masks_of
from lth.analysis.scores import score_histogram, threshold
from lth.analysis.stability import Stability
from lth.config import parse_config
from lth.experiment import records, store
from lth.experiment.masking import Scores
from lth.experiment.measurements import mask_rows, score_rows, stability_rows
from lth.experiment.plan import plan
from lth.experiment.question import declare_question
from lth.experiment.random_policy import Episode, random_policy_file
from lth.experiment.records import AnalysisRow
from lth.experiment.spec import ConnectivitySpec, DenseSpec, MaskSpec
from lth.experiment.tasks import record_tasks
from lth.experiment.tidy import Collector
from lth.files import csv_bytes, write_whole
from lth.replay import ReplayBuffer, init_replay

SIZES = {"Pendulum-v1": (3, 1), "drawer-close-v3": (39, 4), "door-close-v3": (39, 4), "HalfCheetah-v5": (17, 6)}
BEST = {"Pendulum-v1": (-1500.0, -150.0)}
"""Returns of the untrained and the dense agent; 10 and 1000 on other tasks."""
OTHERS = (10.0, 1000.0)
SKILL = {"magnitude": 0.85, "gradient": 0.6, "taylor": 0.9, "random": 0.3, "shuffled": 0.8}


def contents(folder):
    """Return the bytes of all files that have to repeat, by path; whatever was left behind is among them.

    Of tidy.csv the rows that measure time are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        names = path.relative_to(folder).parts
        if path.is_file() and not {*names} & {*records.CLOCK_FILES, "logs"}:
            found["/".join(names)] = path.read_bytes()
            if path.name == "tidy.csv":
                lines = path.read_bytes().splitlines()
                found["/".join(names)] = b"\n".join(line for line in lines if b"_seconds," not in line)
    return found


def tidy_rows(config, all_of_them=False):
    """Return the tidy table of a config's finished runs, or of all of its runs."""
    found = plan(config)
    return Collector(found).rows(found.specs if all_of_them else None)


def differences(one, other):
    """Name the files that two folders do not have alike."""
    one, other = contents(one), contents(other)
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def make_grid(tree, root, skip=(), skill=SKILL):
    """Write the runs of a config below `root`, but those whose path holds one of `skip`; returns the config.

    `skill` has each method's share of what dense agents gain, before sparsity takes some of it.
    """
    config = parse_config({**tree, "output_dir": str(root)})
    declare_question(config)
    record_tasks(config.output_dir, {task: Spaces(*SIZES[task]) for task in config.tasks if task in SIZES})
    for task in config.tasks:
        _random_policy(config, task)
    states, provenance = {}, records.provenance()
    records.provenance, kept = lambda: provenance, records.provenance
    try:
        for spec in plan(config).specs:
            if not any(part in str(spec.path) for part in skip):
                _make(config, spec, states, skill)
    finally:
        records.provenance = kept
    return config


def _random_policy(config, task):
    """200 episodes a little below those of untrained agents; on a task with success one of them in 50 succeeds."""
    untrained, best = BEST.get(task, OTHERS)
    returns = untrained + 0.02 * (best - untrained) * (np.random.default_rng(len(task)).normal(0, 1, 200) - 1)
    rows = [
        Episode(i, float(value), float(i % 50 == 0) if task.endswith("-v3") else float("nan"))
        for i, value in enumerate(returns)
    ]
    write_whole(random_policy_file(config.output_dir, task), csv_bytes(Episode._fields, rows), checksum=False)


def _make(config, spec, states, skills):
    dense = spec if isinstance(spec, DenseSpec) else spec.dense
    rng = np.random.default_rng(abs(hash_of(spec)))
    run = records.open_run(config.output_dir, spec)
    if isinstance(spec, ConnectivitySpec):
        lines = []
        for metric in ("return", "critic_loss"):
            ends = rng.normal(100.0, 10.0, 3)
            rows = [records.LineRow(alpha, metric, float(v)) for alpha, v in zip((0.0, 0.5, 1.0), ends, strict=True)]
            lines += rows
        records.save_line(config.output_dir, spec, lines)
        return
    sizes = SIZES[dense.task]
    if (dense.agent, sizes) not in states:
        states[dense.agent, sizes] = dense.agent.build(Spaces(*sizes)).init(jax.random.key(0))
    state = states[dense.agent, sizes]
    mask = spec if isinstance(spec, MaskSpec) else getattr(spec, "mask", None)
    masks = None
    if mask:
        masks = {n: _mask(p, mask.sparsity[n], np.random.default_rng(hash_of(mask))) for n, p in state.params.items()}
    if isinstance(spec, MaskSpec):
        records.save_timings(run, {"total": round(float(rng.uniform(0.1, 3.0)), 3)})
        rows = mask_rows(masks)
        if spec.method in ("gradient", "taylor"):
            shared = Stability(float(rng.uniform(0.5, 1)), float(rng.uniform(0.5, 1)), 0.1)
            rows += stability_rows({"actor": shared, "critic": shared})
        if spec.method in ("magnitude", "gradient", "taylor"):
            rows += score_rows({network: _scores(masks[network], spec.method) for network in masks})
        records.save_analysis(run, rows)
        store.finish_mask(config.output_dir, spec, masks)
        return
    untrained, best = BEST.get(dense.task, OTHERS)
    skill = 1.0
    if mask:
        skill = skills.get(mask.method, 0.5) * (1.0 - 0.3 * mask.sparsity.actor**4)
    rows = []
    start = getattr(spec, "start", 0)
    end = dense.training.env_steps
    for step in sorted({*range(start, end + 1, dense.evaluation.every), end}):
        share = step / dense.training.env_steps
        value = untrained + (best - untrained) * (skill * share + rng.normal(0, 0.05))
        rows.append((step, "evaluation/return", value))
        if dense.task.endswith("-v3"):
            rows.append((step, "evaluation/success", round(float(np.clip(skill * share, 0, 1)), 1)))
        if step > start:
            learned = np.random.default_rng([hash_of(spec), step]).normal(1.0 - 0.5 * share, 0.1, 3)
            rows += zip([step] * 3, ("train/critic_loss", "train/alpha", "train/q_mean"), learned.tolist(), strict=True)
    records.save_metrics(run, rows)
    total = round(float(rng.uniform(5, 9)) * (1.0 if masks else 3.0), 3)
    records.save_timings(run, {"start": 0.5, "compile": round(total / 4, 3), "train": 5.0, "total": total})
    if masks:
        flags = {n: jax.tree.map(lambda leaf: leaf != 0, mask) for n, mask in masks.items()}
        state = state._replace(
            params={**state.params, **{n: jax.tree.map(np.multiply, state.params[n], masks[n]) for n in masks}},
            opts={**state.opts, **{n: state.opts[n]._replace(mask=flags[n]) for n in flags}},
        )
    state = state._replace(env_steps=np.asarray(end, state.env_steps.dtype))
    units = [
        AnalysisRow(network, "", metric, int(rng.integers(1, 8)))
        for network in ("actor", "critic")
        for metric in ("dead_units", "dormant_units")
    ]
    records.save_analysis(run, mask_rows(masks_of(state)) + units)
    buffer = ReplayBuffer(init_replay(1, *sizes), sizes[0])
    store.save_replay_buffer(run, spec, buffer)
    store.finish_agent(config.output_dir, spec, state)


def _scores(mask, method):
    """Scores of which the mask keeps the largest; they are the same at every sparsity."""
    kept = np.concatenate([np.ravel(leaf) > 0 for leaf in jax.tree.leaves(mask) if leaf.ndim > 1])
    drawn = np.sort(10.0 ** np.random.default_rng(len(method)).normal(-2.0, 0.5, len(kept)))
    scores = np.empty(len(kept))
    scores[~kept], scores[kept] = np.split(drawn, [np.count_nonzero(~kept)])
    return Scores(score_histogram([scores], [kept]), threshold([scores], [kept]))


def _mask(params, sparsity, rng):
    def pruned(leaf):
        return (rng.random(leaf.shape) >= sparsity * (leaf.ndim > 1)).astype(np.float32)

    return jax.tree.map(pruned, params)


def hash_of(spec):
    """Return a number that differs from spec to spec and not from day to day."""
    return int(spec.sha256[:8], 16)
