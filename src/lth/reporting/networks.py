"""What the tidy table does not hold: masks weight by weight, the graph of a policy, and its bytes, from the runs' files."""

from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..analysis.paths import Layer, layers
from ..envs.suites import observation_names
from ..experiment.journal import last_file
from ..experiment.plan import Plan, Row
from ..experiment.records import measured, read_kernels, read_mask
from ..experiment.spec import MaskSpec, Spec, TicketSpec
from ..experiment.tasks import spaces_of_task
from ..exporting.sizes import mask_bytes
from .charts import Size
from .numbers import percent, rewound
from .scores import DENSE_AGENT, Condition
from .views import label

MOST_EDGES = 400
"""That a graph shows; of more, those with the largest weights."""
LARGEST_GRAPH = 1000
"""Weights of a policy of which a graph is drawn at all."""


class Masks(NamedTuple):
    """The policy's masks of one seed, weight by weight: of each method the same layers."""

    title: str
    inputs: list[str]  # the first layer's
    columns: dict[str, list[Layer]]  # label -> layers from inputs to outputs that some mask prunes


class Edge(NamedTuple):
    """A weight of a graph, from a place in one column of nodes to a place in the next."""

    layer: int
    source: int
    target: int
    weight: float


class Graph(NamedTuple):
    """The weights of a policy that are on a path from an observation to an action."""

    title: str
    series: str
    inputs: list[str]  # those that are not read too
    outputs: list[str]
    sizes: list[int]  # nodes of each column, inputs and outputs included
    edges: list[Edge]  # at most MOST_EDGES, those with the largest weights
    weights: int  # of all of them
    read: int  # inputs that have an effective weight


def _rows(plan: Plan, finished: Container[Spec]) -> Iterator[tuple[Row, MaskSpec]]:
    """Yield the tickets of methods whose mask is a run, in the order of the table."""
    for row in plan.rows:
        mask = row.run.mask if isinstance(row.run, TicketSpec) and not row.control else None
        if isinstance(mask, MaskSpec) and mask in finished:
            yield row, mask


def _title(row: Row) -> str:
    return f"{row.dense.task}, {percent(row.sparsity)} pruned, seed {row.dense.seed}"


def weight_masks(plan: Plan, finished: Container[Spec]) -> list[Masks]:
    """Read the policy's masks of the first seed: for each task and sparsity those of all methods.

    Rewind points share their masks, which are shown once.
    """
    found: dict[tuple[str, str], Masks] = {}
    seen: set[MaskSpec] = set()
    policy = plan.config.agent_config.POLICY
    for row, mask in _rows(plan, finished):
        if row.dense.seed != plan.config.seeds[0] or mask in seen:
            continue
        seen.add(mask)
        read = layers(read_mask(last_file(plan.root, mask))[policy])
        names = observation_names(row.dense.task, read[0].kept.shape[0])
        rewind = f", rewound to {row.rewind}" if mask.previous and len(plan.config.pruning.rewind_steps) > 1 else ""
        one = found.setdefault((row.dense.task, row.sparsity + rewind), Masks(_title(row) + rewind, names, {}))
        one.columns[label(row.method, "")] = read
    for one in found.values():
        pruned = [
            i for i, some in enumerate(zip(*one.columns.values(), strict=True)) if not all(x.kept.all() for x in some)
        ]
        for name, read in one.columns.items():
            one.columns[name] = [read[i] for i in pruned]
    return list(found.values())


def graphs(plan: Plan, finished: Container[Spec]) -> list[Graph]:
    """Read the tickets of the first seed whose policies have few enough weights to be drawn."""
    return list(each_graph(plan, finished))


def each_graph(plan: Plan, finished: Container[Spec]) -> Iterator[Graph]:
    """Yield what `graphs` returns, one by one: a page has room for a few."""
    policy, several = plan.config.agent_config.POLICY, len(plan.config.pruning.rewind_steps) > 1
    for row, _ in _rows(plan, finished):
        if row.dense.seed != plan.config.seeds[0] or row.run not in finished or not isinstance(row.run, TicketSpec):
            continue
        counts = {r.metric: r.value for r in measured(plan.root, row.run) if (r.network, r.layer) == (policy, "")}
        if counts.get("effective", LARGEST_GRAPH + 1) <= LARGEST_GRAPH:
            config, spaces = row.dense.agent, spaces_of_task(plan.root, row.dense.task)
            head = config.head(spaces)
            outputs = head.outputs if head else config.networks(spaces)[policy].outputs
            weights = read_kernels(plan.root, row.run, policy, spaces)
            inputs = observation_names(row.dense.task, len(weights["layer_0"]))
            name = label(row.method, "")
            title = f"{name}, {_title(row)}" + (f", {rewound(row.rewind)}" if several else "")
            one = graph(title, name, weights, inputs, outputs)
            if one.edges:
                yield one


def graph(title: str, series: str, weights: dict[str, np.ndarray], inputs: list[str], outputs: int) -> Graph:
    """Lay out a policy's weights as a graph: hidden units that are on no path are left out, and ordered so that few edges cross.

    Args:
        title: of the graph.
        series: the method's label.
        weights: the trained kernels by layer, (inputs, outputs), pruned weights 0.
        inputs: the observations' names.
        outputs: how many of the last layer's outputs become actions, from the first on.
    """
    order = [*(f"layer_{i}" for i in range(len(weights) - 1)), "output"]
    kernels = [weights[name] for name in order]
    kernels[-1] = kernels[-1][:, :outputs]
    paths = layers({name: {"kernel": kernel} for name, kernel in zip(order, kernels, strict=True)})
    effective = [np.where(layer.effective, kernel, 0.0) for layer, kernel in zip(paths, kernels, strict=True)]
    total = sum(int(np.count_nonzero(kernel)) for kernel in effective)
    read = int(np.count_nonzero(effective[0].any(axis=1)))
    sizes = sorted((abs(w) for kernel in effective for w in kernel[kernel != 0].ravel()), reverse=True)
    if total > MOST_EDGES:
        effective = [np.where(abs(kernel) >= sizes[MOST_EDGES - 1], kernel, 0.0) for kernel in effective]
    places = [np.arange(kernels[0].shape[0], dtype=float) / max(kernels[0].shape[0] - 1, 1)]
    shown = [np.arange(kernels[0].shape[0])]
    for k, kernel in enumerate(effective[:-1]):
        alive = np.flatnonzero((kernel != 0).any(axis=0) | (effective[k + 1] != 0).any(axis=1))
        strength = abs(kernel[np.ix_(shown[-1], alive)])
        middle = (places[-1] @ strength) / np.maximum(strength.sum(axis=0), 1e-12)  # the mean place of what it reads
        alive = alive[np.argsort(middle, kind="stable")]
        shown.append(alive)
        places.append((np.arange(len(alive)) + 0.5) / max(len(alive), 1))
    shown.append(np.arange(outputs))
    edges = [
        Edge(k, int(i), int(j), float(kernel[shown[k][i], shown[k + 1][j]]))
        for k, kernel in enumerate(effective)
        for i, j in np.argwhere(kernel[np.ix_(shown[k], shown[k + 1])] != 0)
    ]
    names = [f"action {i}" for i in range(outputs)]
    left = f"the {MOST_EDGES} largest of {total:,}" if total > MOST_EDGES else f"{total:,}"
    return Graph(
        f"{title}, {left} weights",
        series,
        inputs,
        names,
        [len(nodes) for nodes in shown],
        edges[:MOST_EDGES],
        total,
        read,
    )


def positions(found: Graph) -> list[list[tuple[float, float]]]:
    """Return the place of each node by column: (x, y) in [0, 1], y downward."""
    last = len(found.sizes) - 1
    return [[(k / last, (i + 0.5) / n) for i in range(n)] for k, n in enumerate(found.sizes)]


def sizes(plan: Plan, finished: Container[Spec]) -> list[Size]:
    """Compute from the masks how many bytes each ticket's policy takes as an exported program, and each dense agent's.

    Args:
        plan: the plan of the grid.
        finished: the runs that are finished.

    Returns:
        A Size for each finished ticket and dense agent.

    >>> sizes(plan, finished)[0].bytes  # doctest: +SKIP
    """
    found: dict[Spec, Size] = {}
    masks: dict[MaskSpec, int] = {}
    config = plan.config.agent_config
    for row, mask in _rows(plan, finished):
        task, spaces = row.dense.task, spaces_of_task(plan.root, row.dense.task)
        head = config.head(spaces)
        if head is None:  # an algorithm of the user's own, which does not say
            continue
        measure = (spaces, head, config.normalize_obs)
        if row.dense in finished and row.dense not in found:
            network = config.networks(spaces)[config.POLICY]
            whole: Any = {name: {"kernel": np.ones(shape, bool)} for name, shape in network.kernels(spaces).items()}
            if network.layer_norm:
                whole |= {f"norm_{i}": {"scale": np.ones(n, bool)} for i, n in enumerate(network.hidden)}
            found[row.dense] = Size(task, row.dense.seed, DENSE_AGENT, mask_bytes(whole, *measure))
        if row.run in finished:
            if mask not in masks:
                masks[mask] = mask_bytes(read_mask(last_file(plan.root, mask))[config.POLICY], *measure)
            condition = Condition(row.method, row.control, row.sparsity, row.rewind)
            found[row.run] = Size(task, row.dense.seed, condition, masks[mask])
    return list(found.values())
