"""Draw the pictures of the concept pages: `python docs/make_pictures.py` writes docs/assets/*.svg.

The network is a real one, 6 inputs, 8 hidden units and 4 outputs, trained on a small regression; masks and controls are made by
lth's own functions, so a picture shows what they do and not what somebody thinks that they do.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from src import lth
from src.lth.pruning.allocation import erk_counts, pruned_count, uniform_counts
from src.lth.pruning.controls import permute_kept

FOLDER = Path(__file__).resolve().parent / "assets"
CELL, GAP = 13, 10
INK, FAINT, EMPTY = "#1f2933", "#5b6773", "#c3cad1"
BLUE, ORANGE = np.array([0, 114, 178]), np.array([213, 94, 0])
SPARSITY = 0.75


def main() -> None:
    start = network(0, 8)
    trained = fit(start, steps=400)
    mask = lth.prune(trained, SPARSITY)
    write("ticket.svg", *ticket(start, trained, mask))
    write("controls.svg", *controls(start, trained, mask))
    write("iterative.svg", *iterative(start, trained))
    write("allocation.svg", *allocation())


def network(seed: int, hidden: int) -> dict[str, dict[str, jax.Array]]:
    """Draw the initial weights of a network 6 -> hidden -> 4."""
    first, second = jax.random.split(jax.random.key(seed))
    draw = jax.nn.initializers.lecun_normal()
    return {"a": {"kernel": draw(first, (6, hidden))}, "b": {"kernel": draw(second, (hidden, 4))}}


def fit(params: Any, steps: int, mask: Any = None) -> Any:
    """Train by Adam on a function of three of the six inputs; under a mask if there is one."""
    x = jax.random.normal(jax.random.key(7), (256, 6))
    y = jnp.stack([x[:, 0] * 2, x[:, 1] - x[:, 0], jnp.abs(x[:, 2]), x[:, 1] * 1.5], axis=1)

    def loss(p: Any) -> jax.Array:
        return jnp.mean((jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"] - y) ** 2)

    tx = lth.keep_pruned_at_zero(optax.adam(1e-2))
    mask = jax.tree.map(jnp.ones_like, params) if mask is None else mask
    params = lth.apply_mask(params, mask)
    state = lth.set_mask(tx.init(params), mask, params)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def color(value: float) -> str:
    """Return blue for positive and orange for negative weights, the stronger the larger."""
    strength = min(abs(value) / 0.9, 1.0) ** 0.7
    end = BLUE if value > 0 else ORANGE
    mixed = 255 + (end - 255) * (0.12 + 0.88 * strength)
    return "#" + "".join(f"{round(c):02x}" for c in mixed)


def text(
    x: float, y: float, words: str, size: int = 12, fill: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>{words}</text>'


def matrix(x: float, y: float, values: Any, kept: Any, plain: bool = False) -> str:
    """Draw one layer, a row an input and a column an output; pruned weights are empty cells."""
    parts = []
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        place = f'x="{x + column * CELL:g}" y="{y + row * CELL:g}" width="{CELL - 2}" height="{CELL - 2}" rx="2"'
        fill = INK if plain else color(float(value))
        if np.asarray(kept)[row, column]:
            parts.append(f'<rect {place} fill="{fill}"/>')
        else:
            parts.append(f'<rect {place} fill="none" stroke="{EMPTY}"/>')
    return "".join(parts)


def layers(x: float, y: float, params: Any, mask: Any = None, plain: bool = False) -> tuple[str, float]:
    """Draw both layers of a network, the second transposed so that hidden units share columns; returns the height too."""
    kept = jax.tree.map(np.ones_like, params) if mask is None else mask
    first = matrix(x, y, params["a"]["kernel"], kept["a"]["kernel"], plain)
    below = y + 6 * CELL + GAP
    second = matrix(x, below, params["b"]["kernel"].T, np.asarray(kept["b"]["kernel"]).T, plain)
    return first + second, 6 * CELL + GAP + 4 * CELL


def arrow(x: float, y: float, length: float, words: tuple[str, ...]) -> str:
    end = x + length
    line = (
        f'<path d="M{x:g} {y:g}H{end - 7:g}M{end - 9:g} {y - 4:g}L{end - 2:g} {y:g}L{end - 9:g} {y + 4:g}" fill="none" '
    )
    line += f'stroke="{FAINT}" stroke-width="1.5"/>'
    return line + "".join(
        text(x + length / 2, y - 8 - 14 * i, w, 11, FAINT, "middle") for i, w in enumerate(words[::-1])
    )


def ticket(start: Any, trained: Any, mask: Any) -> tuple[str, int, int, str]:
    again = fit(start, 400, mask)
    panels = [
        ("initial weights", start, None, False, ("train",)),
        ("dense agent", trained, None, False, ("score", "and prune")),
        ("mask", mask, mask, True, ("rewind",)),
        ("ticket at its start", start, mask, False, ("train",)),
        ("trained ticket", again, mask, False, ()),
    ]
    parts, x, top = [], 20.0, 54
    for title, params, kept, plain, words in panels:
        drawn, height = layers(x, top, params, kept, plain)
        parts += [text(x + 4 * CELL, 34, title, 13, anchor="middle", bold=True), drawn]
        if words:
            parts.append(arrow(x + 8 * CELL + 6, top + height / 2, 64, words))
        x += 8 * CELL + 76
    width, bottom = int(x - 76 + 20), top + height + 26
    parts.append(text(20, bottom, "Each square is a weight: blue positive, orange negative, empty pruned.", 11, FAINT))
    parts.append(
        text(
            20,
            bottom + 16,
            "Above: 6 inputs (rows) to 8 hidden units. Below: the units to 4 outputs (rows).",
            11,
            FAINT,
        )
    )
    alt = "Five stages of a small network: initial weights, dense agent, mask, ticket at its start, trained ticket"
    return "".join(parts), width, int(bottom + 32), alt


def controls(start: Any, trained: Any, mask: Any) -> tuple[str, int, int, str]:
    """Draw what the ticket and each of its controls start from."""
    keys = {name: jax.random.key(i + 3) for i, name in enumerate(("shuffled", "permuted", "erk"))}
    ticket_start = lth.apply_mask(start, mask)
    shuffled = lth.shuffled_mask(mask, start, keys["shuffled"])
    (permuted,) = permute_kept([ticket_start], mask, keys["permuted"])
    erk = lth.random_mask(start, SPARSITY, keys["erk"], allocation="erk")
    inverted = lth.prune(trained, SPARSITY, invert=True)
    narrow = network(5, 2)
    panels = [
        ("ticket", "mask and initial weights", start, mask),
        ("reinit", "same mask, new weights", network(9, 8), mask),
        ("permuted", "same mask, values swapped", permuted, mask),
        ("shuffled", "same counts, other places", start, shuffled),
        ("inverted", "highest scores pruned", start, inverted),
        ("random-erk", "same total, random places", start, erk),
        ("small-dense", "a narrow dense network", narrow, None),
        ("retrained", "nothing pruned, other batches", start, None),
    ]
    parts, wide, tall = [], 182, 216
    for i, (name, what, params, kept) in enumerate(panels):
        x, y = 20 + wide * (i % 4), 20 + tall * (i // 4)
        drawn, _ = layers(x, y + 42, params, kept)
        left = sum(int(np.sum(np.asarray(leaf) != 0)) for leaf in jax.tree.leaves(params if kept is None else kept))
        parts += [text(x, y + 12, name, 13, bold=True), text(x, y + 29, what, 11, FAINT), drawn]
        parts.append(text(x + 8 * CELL + 8, y + 52, str(left), 11, FAINT))
    parts.append(
        text(
            20,
            20 + 2 * tall + 2,
            "Each square is a weight: blue positive, orange negative, empty pruned. Their number is beside each network.",
            11,
            FAINT,
        )
    )
    return (
        "".join(parts),
        20 + 4 * wide,
        20 + 2 * tall + 18,
        "What a ticket and its seven controls keep of a small network",
    )


def iterative(start: Any, trained: Any) -> tuple[str, int, int, str]:
    """Draw three rounds of iterative pruning, each mask within the one before."""
    parts, x, top, mask, params = [], 20.0, 54, None, trained
    for round_ in range(4):
        drawn, height = layers(x, top, params, mask)
        kept = 80 if mask is None else sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))
        title = "dense agent" if mask is None else f"ticket of round {round_}"
        parts += [text(x + 4 * CELL, 34, title, 13, anchor="middle", bold=True), drawn]
        parts.append(text(x + 4 * CELL, top + height + 18, f"{kept} of 80 weights", 11, FAINT, "middle"))
        if round_ < 3:
            parts.append(arrow(x + 8 * CELL + 6, top + height / 2, 84, ("prune,", "rewind,", "train")))
            mask = lth.prune(params, 1 - 0.63 ** (round_ + 1), prev_mask=mask)
            params = fit(start, 400, mask)
        x += 8 * CELL + 96
    return (
        "".join(parts),
        int(x - 96 + 36),
        int(top + height + 36),
        "Three rounds of iterative pruning of a small network",
    )


def allocation() -> tuple[str, int, int, str]:
    """Draw the share of weights that each layer of HalfCheetah's actor keeps at 90 % sparsity, by allocation."""
    shapes = {"layer_0": (17, 256), "layer_1": (256, 256), "output": (256, 12)}
    draw = jax.nn.initializers.lecun_normal()
    keys = jax.random.split(jax.random.key(0), 3)
    params = {n: {"kernel": draw(key, s)} for key, (n, s) in zip(keys, shapes.items(), strict=True)}
    sizes = [a * b for a, b in shapes.values()]
    by_score = lth.prune(params, 0.9)
    found = {
        "global": [int(np.sum(np.asarray(by_score[n]["kernel"]) == 0)) for n in shapes],
        "layer": uniform_counts(sizes, 0.9),
        "erk": erk_counts(list(shapes.values()), 0.9),
    }
    assert all(sum(counts) == pruned_count(sum(sizes), 0.9) for counts in found.values())
    parts, high, top = [], 110.0, 60
    for i, (name, counts) in enumerate(found.items()):
        x = 30 + 230 * i
        parts.append(text(x, 30, name, 14, bold=True))
        for j, (layer, pruned, size) in enumerate(zip(shapes, counts, sizes, strict=True)):
            share = 1 - pruned / size
            left, full = x + 64 * j, high * share
            parts.append(f'<rect x="{left}" y="{top:g}" width="44" height="{high:g}" fill="none" stroke="{EMPTY}"/>')
            parts.append(
                f'<rect x="{left}" y="{top + high - full:.1f}" width="44" height="{full:.1f}" fill="#0072b2"/>'
            )
            parts.append(text(left + 22, top - 6, f"{100 * share:.0f} %", 11, INK, "middle"))
            parts.append(text(left + 22, top + high + 16, layer, 10, FAINT, "middle"))
            parts.append(text(left + 22, top + high + 30, f"{size - pruned:,}", 10, FAINT, "middle"))
    kept, total = sum(sizes) - pruned_count(sum(sizes), 0.9), sum(sizes)
    words = f"Share and number of weights that each layer keeps; {kept:,} of {total:,} in all. global: by |w| of initial weights."
    parts.append(text(30, top + high + 56, words, 11, FAINT))
    return (
        "".join(parts),
        720,
        int(top + high + 74),
        "Weights kept by layer under the allocations global, layer and erk",
    )


def write(name: str, body: str, width: int, height: int, alt: str) -> None:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
    head += 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">'
    card = f'<title>{alt}</title><rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
    (FOLDER / name).write_text(f"{head}{card}{body}</svg>\n")


if __name__ == "__main__":
    main()
