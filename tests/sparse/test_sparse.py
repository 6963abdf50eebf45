"""Skipping the pruned work changes nothing but the time: every value and gradient is that of the masked dense network."""

import functools
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth.algorithms.acting import Policy, act, policy_reader
from lth.algorithms.architecture import Spaces
from lth.algorithms.learner import draw, learner
from lth.algorithms.packed import layouts_of, pack_state, patterns_of, unpack_state
from lth.algorithms.tickets import make_ticket, masks_of
from lth.cli import main
from lth.config import SACConfig, Sparsity, TrainingConfig, parse_config
from lth.errors import InputError
from lth.experiment import journal, lottery, store
from lth.experiment.build import dense_spec, mask_spec, ticket_spec
from lth.experiment.options import RunOptions
from lth.pruning.controls import random_mask
from lth.pruning.schedules import prune_at, rigl, sparse_evolution
from lth.replay import init_replay, pack_rows
from lth.sparse import compiling, make_pattern, native, pack, sparse_mlp, unpack, unsupported_reason
from lth.training import train
from lth.types import Batch


def available():
    try:
        native.load()
    except native.Unavailable as error:
        return str(error)
    return ""


needs_kernel = pytest.mark.skipif(bool(available()), reason=f"the native kernel is not available: {available()}")
INSTALLED = [] if available() else native.installed_files()
needs_build = pytest.mark.skipif(bool(INSTALLED), reason="the installed kernel is used, so none is compiled")

# ---------------------------------------------------------------------------------------------------------------------
# Networks, and what they compute, in plain NumPy and double precision


def layer(rng, inputs, outputs, density, kept_biases=1.0):
    """Return a layer's parameters and mask. In quarters: their sums come out alike in any order and precision."""
    kernel, bias = (rng.integers(-4, 5, shape).astype(np.float32) / 4 for shape in ((inputs, outputs), (outputs,)))
    mask = {"kernel": rng.random(kernel.shape) < density, "bias": rng.random(outputs) < kept_biases}
    mask = {name: kept.astype(np.float32) for name, kept in mask.items()}
    return {"kernel": kernel, "bias": bias}, mask


def norm(rng, units, kept):
    """Return a layer normalization's parameters and mask."""
    scale, shift = (rng.integers(1, 5, units).astype(np.float32) / 4 for _ in range(2))
    masks = {part: (rng.random(units) < kept).astype(np.float32) for part in ("scale", "bias")}
    return {"scale": scale, "bias": shift - 0.5}, masks


def network(rng, sizes, densities, members=0, kept_biases=1.0, normed=False):
    """Return parameters and mask of a network, or of an ensemble."""
    if members:
        pairs = {f"q{i + 1}": network(rng, sizes, densities, 0, kept_biases, normed) for i in range(members)}
    else:
        names = [*(f"layer_{i}" for i in range(len(sizes) - 2)), "output"]
        shapes = zip(sizes[:-1], sizes[1:], densities, strict=True)
        pairs = {name: layer(rng, *shape, kept_biases) for name, shape in zip(names, shapes, strict=True)}
        for i, units in enumerate(sizes[1:-1] if normed else []):
            pairs[f"norm_{i}"] = norm(rng, units, kept_biases)
    return {n: params for n, (params, _) in pairs.items()}, {n: mask for n, (_, mask) in pairs.items()}


def reference(params, mask, x, dy):
    """Return y, and the gradients of sum(dy * y) by parameters (pruned ones 0) and x."""
    if "output" not in params:
        width = dy.shape[1] // len(params)
        each = {
            name: reference(params[name], mask[name], x, dy[:, i * width : (i + 1) * width])
            for i, name in enumerate(sorted(params))
        }
        ys, gradients, dxs = zip(*(each[name] for name in sorted(each)), strict=True)
        return np.concatenate(ys, axis=1), dict(zip(sorted(each), gradients, strict=True)), sum(dxs)
    names = [*sorted(name for name in params if name.startswith("layer_")), "output"]
    kernels, biases = (
        [np.asarray(params[n][part], float) * np.asarray(mask[n][part]) for n in names] for part in ("kernel", "bias")
    )
    norms = [
        [np.asarray(params[f"norm_{i}"][part], float) * mask[f"norm_{i}"][part] for part in ("scale", "bias")]
        for i in range(len(names) - 1 if "norm_0" in params else 0)
    ]
    values, normal, deviation = [np.asarray(x, float)], [], []
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        z = values[-1] @ kernel + bias
        if i < len(norms):
            off = z - z.mean(axis=1, keepdims=True)
            deviation.append(np.sqrt((off**2).mean(axis=1, keepdims=True) + 1e-6))
            normal.append(off / deviation[i])
            z = normal[i] * norms[i][0] + norms[i][1]
        values.append(z if i == len(kernels) - 1 else np.maximum(z, 0.0))
    gradients, dz = {}, np.asarray(dy, float)
    for i in reversed(range(len(kernels))):
        if i < len(norms):  # Ba et al. 2016; dz is by the values before the ReLU
            gradient = {"scale": (dz * normal[i]).sum(axis=0), "bias": dz.sum(axis=0)}
            gradients[f"norm_{i}"] = {part: gradient[part] * mask[f"norm_{i}"][part] for part in gradient}
            d = dz * norms[i][0]
            along = (d * normal[i]).mean(axis=1, keepdims=True)
            dz = (d - d.mean(axis=1, keepdims=True) - normal[i] * along) / deviation[i]
        gradient = {"kernel": values[i].T @ dz, "bias": dz.sum(axis=0)}
        gradients[names[i]] = {part: gradient[part] * np.asarray(mask[names[i]][part]) for part in gradient}
        dz = dz @ kernels[i].T
        if i:
            dz = dz * (values[i] > 0)
    return values[-1], gradients, dz


def close(a, b):
    """Hold the bound that all of this is made to."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    assert a.shape == b.shape
    if a.size:
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def data(rng, batch, inputs, outputs):
    return tuple(rng.integers(-8, 9, (batch, n)).astype(np.float32) / 8 for n in (inputs, outputs))


def packed64(pattern, tree):
    """Pack a tree without JAX, in double precision."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])[pattern.places]


# name -> (sizes, densities, members, kept biases)
CASES = {
    "one layer": ([5, 3], [0.5], 0, 1.0),
    "two layers": ([7, 33, 4], [0.4, 0.5], 0, 1.0),
    "three layers": ([17, 40, 31, 6], [0.2, 0.1, 0.5], 0, 1.0),
    "four layers": ([6, 12, 13, 9, 2], [0.5, 0.4, 0.6, 0.7], 0, 0.5),
    "twin critics": ([9, 32, 32, 1], [0.3, 0.15, 0.5], 2, 1.0),
    "three members": ([4, 9, 5], [0.5, 0.5], 3, 0.7),
    "long rows": ([70, 60, 3], [0.9, 1.0], 0, 1.0),
    "units without a path": ([8, 30, 30, 3], [0.1, 0.05, 0.05], 0, 1.0),
    "no biases": ([7, 15, 3], [0.4, 0.5], 0, 0.0),
    "an empty first layer": ([5, 8, 8, 2], [0.0, 0.5, 0.5], 0, 1.0),
    "an empty middle layer": ([5, 8, 8, 2], [0.5, 0.0, 0.5], 2, 1.0),
    "an empty last layer": ([5, 8, 8, 2], [0.5, 0.5, 0.0], 0, 1.0),
    "biases alone": ([5, 8, 3], [0.0, 0.0], 2, 1.0),
    "nothing at all": ([5, 8, 3], [0.0, 0.0], 0, 0.0),
    "nothing pruned": ([5, 8, 3], [1.0, 1.0], 0, 1.0),
    "dense layers": ([43, 70, 50, 6], [1.0, 1.0, 1.0], 0, 1.0),
    "nearly dense twins": ([19, 37, 26, 1], [0.9, 0.7, 0.6], 2, 0.8),
    "dense, then sparse": ([20, 33, 40, 5], [1.0, 0.2, 0.9], 0, 1.0),
    "normalized": ([9, 20, 16, 3], [0.4, 0.3, 0.5], 0, 0.8, True),
    "normalized twins": ([9, 24, 24, 1], [0.8, 0.3, 1.0], 2, 1.0, True),
    "normalized and dense": ([6, 32, 18, 4], [1.0, 1.0, 1.0], 0, 1.0, True),
    "normalized, dense and odd": ([5, 19, 13, 2], [1.0, 1.0, 1.0], 0, 1.0, True),  # rows are not aligned as vectors are
}
BATCHES = (1, 31, 32, 33, 63, 64, 65, 100, 256)


def case(name, batch, seed=0):
    """Return pattern, mask, params, x and dy of a case."""
    sizes, densities, members, *how = CASES[name]
    rng = np.random.default_rng([seed, sum(name.encode())])
    params, mask = network(rng, sizes, densities, members, *how)
    return make_pattern(mask), mask, params, *data(rng, batch, sizes[0], sizes[-1] * max(members, 1))


# ---------------------------------------------------------------------------------------------------------------------
# The pattern

ANY_NETWORK = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 9), min_size=2, max_size=5),
        "members": st.integers(0, 3),
        "density": st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]),
        "kept_biases": st.sampled_from([0.0, 0.5, 1.0]),
        "normed": st.booleans(),
        "seed": st.integers(0, 2**16),
        "batch": st.integers(1, 70),
    }
)


def drawn(some):
    rng = np.random.default_rng(some["seed"])
    densities = [some["density"]] * (len(some["sizes"]) - 1)
    return rng, *network(rng, some["sizes"], densities, some["members"], some["kept_biases"], some["normed"])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(ANY_NETWORK)
def test_pack_and_unpack_are_inverses(some):
    _, params, mask = drawn(some)
    pattern = make_pattern(mask)
    kept = sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))
    assert pattern.layout.kept == kept == len(pattern.places)
    assert len(set(pattern.places.tolist())) == kept
    theta = pack(pattern, params)
    assert theta.shape == (kept,)
    assert (
        sorted(pattern.places.tolist())
        == np.flatnonzero(np.concatenate([*map(np.ravel, jax.tree.leaves(mask))])).tolist()
    )
    whole = unpack(pattern, theta)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    for have, value, keep in zip(*map(jax.tree.leaves, (whole, params, mask)), strict=True):
        assert have.tobytes() == np.where(keep == 1, value, np.float32(0)).tobytes()  # +0.0 too, and not -0.0
    assert np.array_equal(pack(pattern, whole), theta)


def read_table(table):
    """Read a table as kernel.h does; returns its layers and what stands at its end."""
    at = iter(table.tolist())

    def take(count):
        return [next(at) for _ in range(count)]

    layers, weights, parameters, _ = take(4)
    sizes, parts = [], []
    for _ in range(layers):
        before, after, blocks, groups = take(4)
        sizes.append((before, after))
        offsets = take(after + 1), take(after), take(before + 1)
        norms = (take(groups + 1), take(after), take(after)) if groups else ()
        parts.append((*offsets, norms, [take(5) for _ in range(blocks)]))
    return sizes, weights, parameters, parts, [take(weights) for _ in range(3)], list(at)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(ANY_NETWORK)
def test_every_index_of_a_table_is_in_range(some):
    _, _, mask = drawn(some)
    pattern = make_pattern(mask)
    sizes, weights, parameters, parts, (column, row, where), rest = read_table(pattern.table)
    assert pattern.table.dtype == np.int32
    assert parameters == pattern.layout.kept
    assert set(rest) <= {0}
    widths = [sizes[0][0], *(after for _, after in sizes)]  # of units with a path to an output, and of all
    assert all(alive <= units for alive, units in zip(widths, pattern.layout.sizes, strict=True))
    assert (widths[0], widths[-1]) == (pattern.layout.sizes[0], pattern.layout.sizes[-1])
    assert [after for _, after in sizes[:-1]] == [before for before, _ in sizes[1:]]
    at, biases = 0, []
    for (before, after), (first, bias, into, norms, blocks) in zip(sizes, parts, strict=True):
        assert [block[0] for block in blocks] == [0, *(block[1] for block in blocks[:-1])]
        assert blocks[-1][1] == after
        assert all(0 <= low <= high <= before for _, _, low, high, _ in blocks)
        for unit, unit_end, low, high, dense in blocks:
            kept = [column[k] for k in range(first[unit], first[unit_end])]
            assert all(low <= i < high for i in kept)
            size = (unit_end - unit) * (high - low)
            assert dense == (unit_end - unit >= 4 and size > 0 and len(kept) >= 0.6 * size)
        if norms:
            groups, *places = norms
            assert (groups[0], groups[-1]) == (0, after)
            assert all(-1 <= p < parameters for part in places for p in part)
            biases += [p for part in places for p in part if p >= 0]
        for offsets in (first, into):
            assert offsets[0] == at
            assert offsets == sorted(offsets)
        assert first[-1] == into[-1]
        inputs, units = column[at : first[-1]], row[at : first[-1]]
        assert all(0 <= i < before for i in inputs)
        assert all(0 <= r < after for r in units)
        by_unit = {(i, k) for k in range(at, first[-1]) for i in [column[k]]}
        by_input = {(i, where[k]) for i in range(before) for k in range(into[i], into[i + 1])}
        assert by_input == by_unit
        biases += [b for b in bias if b >= 0]
        assert all(b == -1 or weights <= b < parameters for b in bias)
        at = first[-1]
    assert at == weights
    assert sorted(where) == list(range(weights))
    assert len(set(biases)) == len(biases)


def test_masks_with_equal_counts_share_a_layout():
    rng = np.random.default_rng(0)
    params = network(rng, [6, 20, 20, 3], [1, 1, 1])[0]
    patterns = [make_pattern(random_mask(params, 0.5, jax.random.key(seed))) for seed in (0, 1)]
    assert patterns[0].layout == patterns[1].layout
    assert patterns[0].table.shape == patterns[1].table.shape
    assert not np.array_equal(patterns[0].table, patterns[1].table)
    assert repr(patterns[0]) == f"Pattern(6-20-20-3, {patterns[0].layout.kept} of 623 parameters kept)"


# ---------------------------------------------------------------------------------------------------------------------
# Values and gradients


def all_gradients(f, theta, x, dy):
    @jax.jit  # compiles one program, and not each operation of the dense network
    def found(theta, x, dy):
        y, back = jax.vjp(f, theta, x)
        return y, *back(dy)

    return found(theta, x, dy)


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_dense_network(name):
    for batch in (33, 100) if name != "twin critics" else BATCHES:
        pattern, mask, params, x, dy = case(name, batch)
        theta = pack(pattern, params)
        y, gradient, dx = reference(params, mask, x, dy)
        have = all_gradients(sparse_mlp(pattern), theta, x, dy)
        for mine, wanted in zip(have, (y, packed64(pattern, gradient), dx), strict=True):
            close(mine, wanted)
        for mine, dense in zip(have, all_gradients(sparse_mlp(pattern, "dense"), theta, x, dy), strict=True):
            close(mine, dense)


@needs_kernel
@settings(max_examples=12, deadline=None, derandomize=True)
@given(ANY_NETWORK)
def test_any_network(some):
    rng, params, mask = drawn(some)
    pattern = make_pattern(mask)
    x, dy = data(rng, some["batch"], some["sizes"][0], some["sizes"][-1] * max(some["members"], 1))
    y, gradient, dx = reference(params, mask, x, dy)
    have = all_gradients(sparse_mlp(pattern), pack(pattern, params), x, dy)
    for mine, wanted in zip(have, (y, packed64(pattern, gradient), dx), strict=True):
        close(mine, wanted)


@needs_kernel
@pytest.mark.parametrize("kind", ["erk", "trained"])
def test_masks_as_they_are_made(kind, dense):
    agent = lth.load(dense[1]).agent.state
    rng = np.random.default_rng(1)
    for params in (agent.params["actor"], agent.params["critic"]):
        if kind == "erk":
            mask = random_mask(params, 0.8, jax.random.key(3), (), "erk")
        else:
            mask = lth.prune_kernels_by_magnitude(params, 0.8)
        pattern = make_pattern(mask)
        x = rng.standard_normal((65, pattern.layout.sizes[0]), np.float32)
        dy = rng.standard_normal((65, pattern.layout.sizes[-1]), np.float32)
        y, gradient, dx = reference(params, mask, x, dy)
        have = all_gradients(sparse_mlp(pattern), pack(pattern, params), x, dy)
        for mine, wanted in zip(have, (y, packed64(pattern, gradient), dx), strict=True):
            close(mine, wanted)


@needs_kernel
def test_only_what_is_asked_for_is_computed():
    pattern, mask, params, x, dy = case("twin critics", 65)
    theta = pack(pattern, params)
    parts = x[:, :4], x[:, 4:6], x[:, 6:]
    f = sparse_mlp(pattern)
    y, gradient, dx = reference(params, mask, x, dy)
    wanted = (packed64(pattern, gradient), dx[:, :4], dx[:, 4:6], dx[:, 6:])

    def loss(theta, *parts):
        return (f(theta, *parts) * dy).sum()

    close(f(theta, *parts), y)
    for arguments in ((0,), (1,), (2,), (3,), (1, 3), (0, 2), (0, 1, 2, 3)):
        found = jax.grad(loss, arguments)(theta, *parts)
        for argument, mine in zip(arguments, found, strict=True):
            close(mine, wanted[argument])
        program = str(jax.make_jaxpr(jax.grad(loss, arguments))(theta, *parts))
        keep = 2 if 0 in arguments else 1  # VALUES or SIGNS of kernel.h
        assert program.count(native.TARGETS[0]) == program.count(native.TARGETS[1]) == 1
        assert program.count(f"'keep': {keep}") + program.count(f"keep={keep}") + program.count(f"({keep})") > 0, (
            program
        )
        size = f"f32[{pattern.layout.kept if 0 in arguments else 0}]"
        assert size in program
    forward_only = str(jax.make_jaxpr(f)(theta, *parts))
    assert native.TARGETS[1] not in forward_only
    assert "u8[0]" in forward_only


@needs_kernel
def test_a_cotangent_of_zero_gives_zeros():
    pattern, _, params, x, dy = case("two layers", 33)
    theta = pack(pattern, params)
    f = sparse_mlp(pattern)
    assert not any(g.any() for g in all_gradients(f, theta, x, np.zeros_like(dy))[1:])
    found = jax.grad(lambda theta: jax.lax.stop_gradient(f(theta, x)).sum())(theta)  # a symbolic zero
    assert not found.any()
    _, back = jax.vjp(lambda theta, x: (f(theta, x), x.sum()), theta, jnp.asarray(x))
    assert not back((jnp.zeros_like(dy), jnp.zeros(())))[0].any()
    # The output is part of what is differentiated, and its cotangent is known to be zero.
    both = jax.grad(lambda theta: (lambda y, t: t.sum())(f(theta, x), theta))(theta)
    assert (both == 1).all()


@needs_kernel
def test_vmap_is_one_after_the_other():
    pattern, _, params, x, dy = case("two layers", 32)
    theta = pack(pattern, params)
    many = jnp.stack([theta, theta * 2, -theta])
    f = sparse_mlp(pattern)
    assert np.array_equal(jax.vmap(f, (0, None))(many, x), jnp.stack([f(t, x) for t in many]))

    def gradient(theta):
        return jax.grad(lambda t: (f(t, x) * dy).sum())(theta)

    assert np.array_equal(jax.vmap(gradient)(many), jnp.stack([gradient(t) for t in many]))


@needs_kernel
def test_not_a_number_comes_through():
    pattern, _, params, x, _ = case("nothing pruned", 33)
    x[5, 2] = np.nan
    have, wanted = (np.asarray(sparse_mlp(pattern, b)(pack(pattern, params), x)) for b in ("native", "dense"))
    assert np.array_equal(np.isnan(have), np.isnan(wanted))
    assert np.isnan(have[5]).all()
    assert not np.isnan(np.delete(have, 5, axis=0)).any()


@needs_kernel
def test_a_batch_of_none():
    pattern, _, params, x, dy = case("twin critics", 1)
    y, dtheta, dx = all_gradients(sparse_mlp(pattern), pack(pattern, params), x[:0], dy[:0])
    assert (y.shape, dx.shape) == ((0, 2), (0, 9))
    assert not dtheta.any()


@needs_kernel
def test_arguments_that_do_not_fit_never_reach_the_kernel():
    pattern, _, params, x, _ = case("two layers", 33)
    theta, f = pack(pattern, params), sparse_mlp(pattern)
    for bad in ((theta, x[:, 1:]), (theta[1:], x), (theta, x, x[:, :1]), (theta, x[0]), (theta[None], x)):
        with pytest.raises(InputError, match="sparse network needs"):
            f(*bad)
    with pytest.raises(InputError, match="float32"):
        f(theta, x.astype(np.int32))


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_one_example_as_acting_needs_it(name):
    pattern, mask, params, x, dy = case(name, 3)
    one = native.one_example(pattern.table, pattern.layout.sizes[0], pattern.layout.sizes[-1])
    forward = one(np.asarray(pack(pattern, params)))
    close(np.stack([forward(row).copy() for row in x]), reference(params, mask, x, dy)[0])


@needs_kernel
def test_a_packed_policy_acts_as_the_dense_one():
    algorithm = SACConfig(actor_hidden=(8, 8), critic_hidden=(8, 8)).build(Spaces(4, 2))
    state = algorithm.init(jax.random.key(0))
    mask = random_mask(state.params["actor"], 0.5, jax.random.key(1))
    pattern = make_pattern(mask)
    rng = np.random.default_rng(0)
    observations, noise = rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
    head = np.concatenate([np.zeros(4), np.ones(4)]).astype(np.float32)
    params = jax.tree.map(lambda p, m: p * m, state.params["actor"], mask)
    layers = [params[name][part] for name in ("layer_0", "layer_1", "output") for part in ("kernel", "bias")]
    critic = make_pattern(jax.tree.map(np.ones_like, state.params["critic"]))
    read = policy_reader(algorithm, {"actor": pattern, "critic": critic})
    policy: Policy = read(np.concatenate([head, np.asarray(pack(pattern, params))]))
    whole = policy_reader(algorithm)(np.concatenate([head, *(np.asarray(p).ravel() for p in layers)]))
    for order in ("C", "F"):
        seen = np.asarray(observations, order=order)
        close(act(policy, seen, noise), act(whole, seen, noise))
        close(act(policy, seen), act(whole, seen))


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def broken(edit):
    mask = network(np.random.default_rng(0), [4, 5, 5, 2], [1, 1, 1])[1]
    edit(mask)
    return mask


TWINS = network(np.random.default_rng(0), [4, 5, 2], [1, 1], 2)[1]
REFUSED = {
    "no bias": (broken(lambda m: m["layer_1"].pop("bias")), "layer_1/bias"),
    "no kernel": (broken(lambda m: m["output"].pop("kernel")), "output/kernel"),
    "a bias that is None": (broken(lambda m: m["layer_1"].update(bias=None)), "layer_1/bias"),
    "a layer missing": (broken(lambda m: m.pop("layer_0")), "layer_0"),
    "no output": (broken(lambda m: m.pop("output")), "dense layers"),
    "one norm of two": (broken(lambda m: m.update(norm_0={"scale": np.ones(5), "bias": np.ones(5)})), "norm_1"),
    "a long norm": (
        broken(lambda m: m.update({f"norm_{i}": {"scale": np.ones(5 + i), "bias": np.ones(5)} for i in (0, 1)})),
        "norm_1 has a scale",
    ),
    "a scale": (broken(lambda m: m["layer_0"].update(scale=np.ones(5))), "layer_0/scale"),
    "a long bias": (broken(lambda m: m["layer_1"].update(bias=np.ones(6))), r"layer_1 has a kernel \(5, 5\)"),
    "a bias that is a number": (broken(lambda m: m["output"].update(bias=1.0)), "output has"),
    "a kernel that is a vector": (broken(lambda m: m["layer_0"].update(kernel=np.ones(5))), "layer_0 has"),
    "a kernel that is a number": (broken(lambda m: m["layer_0"].update(kernel=1.0)), "layer_0 has"),
    "vector and number": (broken(lambda m: m["output"].update(kernel=np.ones(5), bias=1.0)), "output has"),
    "a kernel of three": (
        broken(lambda m: m["layer_0"].update(kernel=np.ones((4, 5, 1)), bias=np.ones((5, 1)))),
        "layer_0 has",
    ),
    "a kernel transposed": (broken(lambda m: m["output"].update(kernel=np.ones((2, 5)))), "output has a kernel"),
    "unlike depths": (
        {"a": TWINS["q1"], "b": network(np.random.default_rng(0), [4, 5, 5, 2], [1, 1, 1])[1]},
        "different depth",
    ),
    "unlike inputs": (
        {"a": TWINS["q1"], "b": network(np.random.default_rng(0), [3, 5, 2], [1, 1])[1]},
        "b/layer_0 has a kernel",
    ),
    "no dict": (np.ones((3, 4)), "dense layers"),
    "a list": ([np.ones((3, 4)), np.ones(4)], "dense layers"),
    "an empty dict": ({}, "dense layers"),
    "dicts of nothing": ({"a": {}}, "dense layers"),
    "numbers as names": ({0: {1: np.ones((4, 5))}}, "the key 0"),
    "a number among names": (broken(lambda m: m["layer_0"].update({7: np.ones(5)})), "the key 7"),
    "an array among networks": ({**TWINS, "x": np.ones(3)}, "x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_network_is_refused(name):
    mask, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        make_pattern(mask)
    assert unsupported_reason(mask)


def test_another_tree_is_not_packed():
    params, mask = network(np.random.default_rng(0), [4, 5, 2], [0.5, 0.5])
    pattern = make_pattern(mask)
    other, _ = network(np.random.default_rng(0), [4, 6, 2], [0.5, 0.5])
    with pytest.raises(InputError, match="layer_0"):
        pack(pattern, other)
    with pytest.raises(InputError):
        pack(pattern, {"output": params["output"]})
    for theta in (jnp.ones(1), jnp.float32(1.0), pack(pattern, params)[1:]):
        with pytest.raises(InputError, match="theta has shape"):
            unpack(pattern, theta)
    with pytest.raises(InputError, match="did you mean 'dense'"):
        sparse_mlp(pattern, "Dense")
    assert unsupported_reason(mask) == ""


# ---------------------------------------------------------------------------------------------------------------------
# The kernel alone


def compiler():
    try:
        native.instruction_set()
        return compiling.compiler()
    except native.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def case_file(tmp_path_factory):
    """The cases as tests/sparse/native/driver.cc reads them, and how many there are."""
    path = tmp_path_factory.mktemp("cases") / "cases"
    cases = [(name, batch) for name in CASES for batch in ((1, 65) if name != "twin critics" else BATCHES)]
    with path.open("wb") as file:
        for name, batch in cases:
            pattern, mask, params, x, dy = case(name, batch, 1)
            y, gradient, dx = reference(params, mask, x, dy)
            header = [batch, x.shape[1], dy.shape[1], pattern.layout.kept, len(pattern.table)]
            file.write(np.array(header, np.int32).tobytes() + pattern.table.tobytes())
            for array in (packed64(pattern, params), x, dy, y, dx, packed64(pattern, gradient)):
                file.write(np.asarray(array, np.float32).tobytes())
    return path, len(cases)


def drive(case_file, folder, command, flags, lanes, threads=1, runner=()):
    """Compile the driver and run all cases."""
    path, count = case_file
    program = folder / "driver"
    always = ["-std=c++17", "-g", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi"]
    always += ["-Wno-unknown-warning-option", "-Wno-maybe-uninitialized"]
    source = Path(__file__).parent / "native" / "driver.cc"
    built = subprocess.run(
        [*command, *always, *flags, str(source), "-o", str(program), "-pthread"], capture_output=True, text=True
    )
    if built.returncode and "san" in built.stderr and "cannot find" in built.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    assert "warning" not in built.stderr
    ran = subprocess.run([*runner, program, path, str(threads)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout == f"{count} cases, {lanes} lanes, {threads} threads\n"


@pytest.mark.parametrize(
    ("level", "sanitizer", "threads"),
    [
        ("x86-64-v4", "address,undefined", 1),
        pytest.param("x86-64-v3", "address,undefined", 1, marks=pytest.mark.full),
        pytest.param("x86-64-v3", "thread", 3, marks=pytest.mark.full),
    ],
)
def test_the_kernel_alone_under_sanitizers(level, sanitizer, threads, case_file, tmp_path):
    command = compiler()
    if (level, native.instruction_set()) == ("x86-64-v4", "x86-64-v3"):
        pytest.skip("this processor has no AVX-512")
    flags = ["-O1", f"-march={level}", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    drive(case_file, tmp_path, command, flags, {"x86-64-v4": 64, "x86-64-v3": 32}[level], threads)


@pytest.mark.parametrize("compiler", ["g++", pytest.param("clang++", marks=pytest.mark.full)])
def test_the_kernel_alone_on_aarch64(compiler, case_file, tmp_path):
    cross, qemu = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    command = [cross] if compiler == "g++" else [shutil.which("clang++"), "--target=aarch64-linux-gnu"]
    if not (cross and qemu and command[0]):
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user, and clang for its half")
    drive(case_file, tmp_path, command, ["-O2", "-static"], 16, 2, [qemu])


# ---------------------------------------------------------------------------------------------------------------------
# Whole updates


def ticket_state(algorithm, sparsity=0.7, seed=0):
    state = algorithm.init(jax.random.key(0))
    masks = {
        name: random_mask(state.params[name], sparsity, jax.random.key(seed + i))
        for i, name in enumerate(("actor", "critic"))
    }
    return make_ticket(state, masks)


def twenty_updates(algorithm, state, patterns):
    rng = np.random.default_rng(0)
    size = 200
    replay = jax.tree.map(jnp.copy, init_replay(size, 5, 2))
    made = Batch(
        *(rng.standard_normal(shape).astype(np.float32) for shape in ((size, 5), (size, 2), (size,), (size, 5))),
        rng.random(size) < 0.1,
    )
    draws = draw(algorithm, rng, 20, 33, size)
    # A copy: the call donates its state.
    start = jax.tree.map(jnp.copy, state if patterns is None else pack_state(patterns, state))
    after, *_, metrics = learner(algorithm, patterns)(start, replay, pack_rows(made), draws)
    return (after if patterns is None else unpack_state(patterns, after, state)), metrics


@needs_kernel
@pytest.mark.parametrize(("clip", "normalize"), [(None, True), (0.5, False)])
def test_twenty_updates_are_those_of_the_dense_agent(clip, normalize):
    config = SACConfig(actor_hidden=(16, 16), critic_hidden=(16, 16), max_grad_norm=clip, normalize_obs=normalize)
    algorithm = config.build(Spaces(5, 2))
    state = ticket_state(algorithm)
    patterns = patterns_of(state)
    have, metrics = twenty_updates(algorithm, state, patterns)
    wanted, dense_metrics = twenty_updates(algorithm, state, None)
    assert int(have.grad_steps) == 20
    for field, names in (
        ("params", ["actor", "critic"]),
        ("targets", ["critic"]),
        ("values", ["log_alpha"]),
        ("opts", ["actor", "alpha", "critic"]),
    ):
        assert sorted(getattr(have, field)) == sorted(getattr(wanted, field)) == names
        for a, b in zip(*(jax.tree.leaves(getattr(s, field)) for s in (have, wanted)), strict=True):
            close(a, b)
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(dense_metrics[name]), rel=1e-5, abs=1e-5)
    masks = masks_of(state)
    for params, mask in (
        (have.params["actor"], masks["actor"]),
        (have.params["critic"], masks["critic"]),
        (have.targets["critic"], masks["critic"]),
    ):
        for leaf, kept in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
            assert not np.asarray(leaf)[np.asarray(kept) == 0].view(np.uint32).any()

    again, _ = twenty_updates(algorithm, state, patterns)
    for a, b in zip(*(jax.tree.leaves(s._replace(key=None)) for s in (have, again)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    # Another mask of the same counts takes no compilation.
    from lth.algorithms.learner import _learner

    compiled = _learner(algorithm, layouts_of(patterns))
    assert compiled._cache_size() == 1
    other = ticket_state(algorithm, seed=7)
    assert not np.array_equal(patterns_of(other)["actor"].table, patterns["actor"].table)
    assert layouts_of(patterns_of(other)) == layouts_of(patterns)
    twenty_updates(algorithm, other, patterns_of(other))
    assert compiled._cache_size() == 1


# ---------------------------------------------------------------------------------------------------------------------
# The build. A real one takes seconds, so a script stands in for the compiler here, which hands out what a real one built.


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A compiler that leaves a line in a file for each call, and its environment: a fresh cache in a path with a space."""
    if available():
        pytest.skip(available())
    folder = tmp_path_factory.mktemp("a compiler")
    shutil.copy((INSTALLED or native.cached_files())[0], folder / "kernel.so")
    return folder, {"CXX": stand_in(folder / "c++", folder / "kernel.so"), "LTH_CACHE": str(folder / "a cache")}


def stand_in(script, kernel):
    """Write a compiler that copies a kernel. Returns the value for CXX."""
    script.write_text(
        f'#!/bin/sh\necho "$@" >> "{script.parent}/calls"\nfor last; do :; done\nsleep 0.5\ncp "{kernel}" "$last"\n'
    )
    script.chmod(0o700)
    return f"'{script}'"


LOAD = "from lth.sparse import native; native.load(); print('loaded')"
SAY = """
import os, sys
from lth.sparse import native
before = dict(os.environ)
for line in sys.stdin.read().splitlines():
    os.environ.clear()
    os.environ.update(before | dict(word.split('=', 1) for word in line.split('\t')))
    native._load.cache_clear()
    native.instruction_set.cache_clear()
    try:
        native.load()
        print('loaded')
    except native.Unavailable as error:
        print(error)
"""


@needs_build
def test_first_uses_at_once_and_damaged_files(compiled):
    folder, env = compiled
    cache = Path(env["LTH_CACHE"])
    processes = [
        subprocess.Popen([sys.executable, "-c", LOAD], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate()[0] for process in processes] == ["loaded\n"] * 4
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    (file,) = cache.iterdir()
    good = file.read_bytes()
    calls = len((folder / "calls").read_text().splitlines())
    assert 1 <= calls <= 4
    file.write_bytes(good[:1000])
    healed = subprocess.run([sys.executable, "-c", LOAD], env={**os.environ, **env}, capture_output=True, text=True)
    assert healed.stdout == "loaded\n", healed.stderr
    assert f"the native kernel '{file}' does not fit (its file is damaged), so it was compiled again" in healed.stderr
    assert file.read_bytes() == good
    assert [*cache.iterdir()] == [file]
    assert len((folder / "calls").read_text().splitlines()) == calls + 1


@needs_kernel
def test_only_a_whole_file_of_these_sources_is_found(monkeypatch, tmp_path):
    good = (INSTALLED or native.cached_files())[0]
    content = good.read_bytes()
    monkeypatch.setenv("LTH_CACHE", str(tmp_path / "cache"))
    assert native.cached_files() == []
    file = tmp_path / "cache" / good.name
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], bytes(flipped), b""):
        file.write_bytes(damaged)
        assert not compiling.is_intact(file)
    file.write_bytes(content)
    assert compiling.is_intact(file)
    assert native.cached_files() == [file]
    for change in ("SOURCES", ("kernel.h",)), ("_flags", lambda _: ["-O2"]):
        with monkeypatch.context() as other:
            other.setattr(compiling, *change)
            assert native.cached_files() == []
    file.parent.chmod(0o770)
    with pytest.raises(native.Unavailable, match=r"other users can write to its cache .*chmod 700"):
        native.cached_files()


NEWER = """#include "xla/ffi/api/c_api.h"
extern "C" {
XLA_FFI_Error* lth_sparse_mlp_forward(XLA_FFI_CallFrame* frame) {
  auto* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
  metadata->api_version.major_version = 0, metadata->api_version.minor_version = 999;
  return nullptr;
}
XLA_FFI_Error* lth_sparse_mlp_backward(XLA_FFI_CallFrame* frame) { return lth_sparse_mlp_forward(frame); }
void lth_sparse_mlp_one() {}
void lth_sparse_threads() {}
}
"""
"""A kernel that was compiled with the headers of a future XLA."""


@needs_build
def test_a_kernel_that_does_not_fit_is_compiled_again(compiled, tmp_path, monkeypatch):
    (tmp_path / "newer.cc").write_text(NEWER)
    command = [*compiler(), "-shared", "-fPIC", "-isystem", jax.ffi.include_dir(), tmp_path / "newer.cc", "-o"]
    subprocess.run([*command, tmp_path / "newer.so"], check=True)
    (tmp_path / "other.so").write_bytes(" ".join(compiling.TARGETS + compiling.OTHERS).encode().ljust(1000))
    for kernel, reason in ("newer", "API version (0.999) is incompatible"), ("other", "invalid ELF header"):
        cache = tmp_path / kernel
        cache.mkdir(mode=0o700)
        monkeypatch.setenv("CXX", stand_in(tmp_path / "c++", tmp_path / f"{kernel}.so"))
        file = compiling.compile_kernel(cache, native.instruction_set(), "")
        # The third load finds the kernel of the second one in the cache, so it needs no compiler.
        real, none = f"CXX={compiled[1]['CXX']}", "CXX=/nonexistent"
        lines, errors = loads([f"LTH_CACHE={cache}\t{cxx}" for cxx in (none, real, none)], {})
        refused = f"the native kernel '{file}' does not fit ("
        assert refused in lines[0]
        assert reason in lines[0]
        assert "), and there is no C++ compiler (/nonexistent)" in lines[0]
        assert lines[1:] == ["loaded", "loaded"]
        assert errors.count(refused) == 1
        assert "), so it was compiled again, to '" in errors


def loads(cases, env):
    """Load the kernel in each of the environments, in one process. Returns the results and the error output."""
    command = [sys.executable, "-c", SAY]
    said = subprocess.run(command, input="\n".join(cases), env={**os.environ, **env}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return said.stdout.splitlines(), said.stderr


@needs_build
def test_why_there_is_no_kernel_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cases = {
        "LTH_NATIVE=0": "LTH_NATIVE=0 in the environment",
        "LTH_NATIVE=off": "LTH_NATIVE=off in the environment; choose from 0, 1,",
        "CXX=/nonexistent": "there is no C++ compiler (/nonexistent); install g++",
        "CXX=false": "compilation failed: the compiler printed nothing and exited with status 1; the command was false",
        "CXX=true": "compilation failed: the compiler printed nothing and exited with status 0",
        'CXX="g++': "which is not a valid command",
        "PATH=": "there is no C++ compiler (g++ or clang++)",
        f"LTH_CACHE={tmp_path}/file": f"its cache '{tmp_path}/file' cannot be created",
        "LTH_CACHE=/proc/lth": "its cache '/proc/lth' cannot be created",
        "LTH_CACHE=/proc/self": "it cannot be compiled in '/proc/self' (",  # is there, but nothing can be written to it
    }
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("LTH_NATIVE", raising=False)
    lines, _ = loads(cases, {"LTH_CACHE": str(tmp_path / "cache")})
    assert len(lines) == len(cases)
    for line, (how, wanted) in zip(lines, cases.items(), strict=True):
        assert wanted in line, how
    assert not [*(tmp_path / "cache").glob("*")]


@pytest.mark.skipif(not INSTALLED, reason="lth was installed without a kernel")
def test_the_installed_kernel_is_used_and_equals_one_that_is_compiled_here(tmp_path):
    (installed,) = INSTALLED
    assert native.load()._name == str(installed)
    compiled_here = compiling.compile_kernel(tmp_path, native.instruction_set(), jax.ffi.include_dir())
    assert compiled_here.name == installed.name  # the name has a hash of the content


# ---------------------------------------------------------------------------------------------------------------------
# Tickets


class Stopped(Exception):
    """Raised where a run is to be interrupted."""


def stop_at(step):
    def progress(env_steps, metrics):
        if env_steps == step:
            raise Stopped

    return RunOptions(checkpoint_every=1, progress=progress)


def native_ticket(config, exclude=()):
    """Make a mask; return the ticket's specification and the mask."""
    pruning = {**config.pruning.model_dump(), "exclude": exclude}
    config = parse_config({**config.model_dump(), "pruning": pruning})
    mask = mask_spec(config, dense_spec(config, "Pendulum-v1", 0), "magnitude", Sparsity(actor=0.8, critic=0.8))
    lottery.make_mask(config.output_dir, mask)
    spec = ticket_spec(config, dense_spec(config, "Pendulum-v1", 0), mask)
    assert spec.dense.training.backend == "native"
    return spec, store.load_mask(journal.last_file(config.output_dir, mask))


def train_in(folder, config, spec, *hows):
    """Train a ticket in a copy of the results so far, interrupted by each of `hows` but the last."""
    shutil.copytree(config.output_dir, folder, ignore=shutil.ignore_patterns("ticket-*"))
    for how in hows[:-1]:
        with pytest.raises(Stopped):
            lottery.train_ticket(folder, spec, options=how)
    return lottery.train_ticket(folder, spec, options=hows[-1])


def check_pruned(run, mask):
    state = lth.load(run).agent.state
    assert int(state.env_steps) == 600
    trees = [(state.params["actor"], "actor"), (state.params["critic"], "critic"), (state.targets["critic"], "critic")]
    trees += [
        (getattr(s.inner[1][0], part), n)
        for s, n in ((state.opts["actor"], "actor"), (state.opts["critic"], "critic"))
        for part in ("mu", "nu")
    ]
    for tree, network in trees:
        for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(mask[network]), strict=True):
            assert np.isfinite(leaf).all()
            assert not np.asarray(leaf)[np.asarray(kept) == 0].view(np.uint32).any()
            assert np.asarray(leaf).any()


@needs_kernel
def test_a_ticket_goes_on_where_it_was_stopped_and_on_the_other_backend(small_config, dense, tmp_path, monkeypatch):
    spec, mask = native_ticket(small_config)
    runs = {
        "whole": train_in(tmp_path / "whole", small_config, spec, lottery.PLAIN),
        "resumed": train_in(tmp_path / "resumed", small_config, spec, stop_at(400), lottery.PLAIN),
    }
    files = [journal.checkpoint_file, journal.replay_file]
    for file in files:
        assert file(runs["whole"]).read_bytes() == file(runs["resumed"]).read_bytes()
    for first in (True, False):
        folder = tmp_path / f"native first {first}"
        shutil.copytree(small_config.output_dir, folder, ignore=shutil.ignore_patterns("ticket-*"))
        for half, how in ((first, stop_at(400)), (not first, lottery.PLAIN)):
            with monkeypatch.context() as patch:
                if not half:
                    patch.setenv("LTH_NATIVE", "0")
                if how is lottery.PLAIN:
                    runs[folder.name] = train_half(folder, spec, how, half)
                else:
                    with pytest.raises(Stopped):
                        train_half(folder, spec, how, half)
    for run in runs.values():
        check_pruned(run, mask)
        assert json.loads((run / "spec.json").read_text())["dense"]["training"]["backend"] == "native"


def train_half(folder, spec, how, is_native):
    if is_native:
        return lottery.train_ticket(folder, spec, options=how)
    with pytest.warns(UserWarning, match="the native kernel is not available on this machine .LTH_NATIVE=0"):
        return lottery.train_ticket(folder, spec, options=how)


@needs_kernel
@needs_build
def test_lth_run_says_and_records_how_tickets_are_computed(tmp_path, small_yaml, capsys, run_command):
    words = ["pruning.methods=[magnitude]", "training.env_steps=400"]
    assert main(["run", str(small_yaml), *words]) == 0
    said = capsys.readouterr()
    results = tmp_path / "results"
    line = f"Runs train on the native kernel ({native.instruction_set()}, float32)."
    assert line in said.out + said.err
    assert json.loads((results / "backend.json").read_text()) == {
        "native": True,
        "reason": f"{native.instruction_set()}, float32",
    }
    (ticket,) = results.glob("*/*/ticket-*")
    assert json.loads((ticket / "spec.json").read_text())["dense"]["training"]["backend"] == "native"

    # Without a compiler, and nothing in the cache: the same, densely, and nothing fails.
    env = {"LTH_CACHE": str(tmp_path / "cache"), "CXX": "/nonexistent"}
    poor = run_command("-m", "lth.cli", "run", small_yaml, *words, f"output_dir={tmp_path / 'poor'}", env=env)
    assert poor.returncode == 0, poor.stderr
    why = (
        "Runs train on XLA with masked weights: the native kernel is not available, because "
        "there is no C++ compiler (/nonexistent)"
    )
    assert why in poor.stdout + poor.stderr
    assert json.loads((tmp_path / "poor" / "backend.json").read_text())["native"] is False
    (ticket,) = (tmp_path / "poor").glob("*/*/ticket-*")
    assert json.loads((ticket / "spec.json").read_text())["dense"]["training"]["backend"] == "dense"


def test_native_where_there_is_none_is_a_mistake(small_yaml, monkeypatch, capsys):
    monkeypatch.setenv("LTH_NATIVE", "0")
    assert main(["run", str(small_yaml), "training.backend=native"]) == 2
    said = capsys.readouterr().err
    assert "training.backend=native, but the native kernel is not available: LTH_NATIVE=0 in the environment" in said
    assert "training.backend=auto or dense" in said


def test_which_backend_a_run_has():
    def training(**tree):
        config = parse_config({"training": tree})
        dense = dense_spec(config, "t", 0)
        ticket = ticket_spec(config, dense, mask_spec(config, dense, "random", Sparsity(actor=0.9, critic=0.1)))
        assert ticket.dense is dense
        return dense.training.backend, dense.training.threads

    assert training(backend="dense", threads=2) == ("dense", 2)
    for wanted in ("auto", "native"):
        assert training(backend=wanted, threads=2) == ("native", 1)  # no byte depends on them


@needs_kernel
def test_threads_change_no_byte():
    for name in ("twin critics", "nearly dense twins", "normalized twins"):
        for batch in (33, 256, 64 * 9 + 5):
            pattern, _, params, x, dy = case(name, batch)
            rng = np.random.default_rng(0)  # not in quarters, so that sums depend on their order
            theta = pack(pattern, params)
            theta *= rng.standard_normal(theta.shape, np.float32)
            bytes_of = []
            for threads in (1, 2, 3, 4, 1):
                native.set_threads(threads)
                found = all_gradients(sparse_mlp(pattern), theta, x, dy)
                bytes_of.append([np.asarray(array).tobytes() for array in found])
            assert all(other == bytes_of[0] for other in bytes_of[1:])


@needs_kernel
def test_room_for_more_weights_changes_nothing():
    _, mask, params, x, dy = case("twin critics", 33)
    patterns = [make_pattern(mask, room=room) for room in (0, 1000)]
    assert patterns[1].layout.kept == 1000
    kept = patterns[0].layout.kept
    found = [all_gradients(sparse_mlp(pattern), pack(pattern, params), x, dy) for pattern in patterns]
    (y, gradient, dx), (y2, gradient2, dx2) = found
    assert np.array_equal(y, y2)
    assert np.array_equal(dx, dx2)
    assert np.array_equal(gradient, gradient2[:kept])
    assert not np.any(gradient2[kept:])
    theta = pack(patterns[1], params)
    assert not np.any(theta[kept:])
    for a, b in zip(jax.tree.leaves(unpack(patterns[1], theta)), jax.tree.leaves(params), strict=True):
        assert a.shape == b.shape
    assert np.array_equal(pack(patterns[0], unpack(patterns[1], theta)), theta[:kept])


@needs_kernel
@pytest.mark.parametrize("batch", [1, 37])
def test_infinite_weights_give_what_xla_gives(batch):
    _, mask, params, x, dy = case("dense layers", batch)
    params["layer_0"]["kernel"][0, 0] = np.inf
    pattern = make_pattern(mask)
    theta = pack(pattern, params)
    for have, wanted in zip(
        all_gradients(sparse_mlp(pattern), theta, x, dy),
        all_gradients(sparse_mlp(pattern, "dense"), theta, x, dy),
        strict=True,
    ):
        assert np.array_equal(np.isfinite(have), np.isfinite(wanted))


@needs_kernel
@pytest.mark.parametrize("kind", ["gradual", "set", "rigl"])
def test_masks_that_move_move_as_on_xla(kind):
    config = SACConfig(actor_hidden=(16, 16), critic_hidden=(16, 16), buffer_size=1000)
    training = TrainingConfig(env_steps=160, start_steps=40, segment_steps=80, batch_size=32)
    algorithm = config.build(Spaces(3, 1))
    state = algorithm.init(jax.random.key(0))
    if kind == "gradual":
        schedules = {n: prune_at(p, 0.8, at=range(20, 120, 20)) for n, p in state.params.items()}
    else:
        state = ticket_state(algorithm, 0.7)
        make = {"set": functools.partial(sparse_evolution, key=jax.random.key(3)), "rigl": rigl}[kind]
        schedules = {n: make(p, every=25, until=100) for n, p in state.params.items()}
    state = state._replace(
        opts={n: o._replace(schedule=schedules.get(n)) if n in schedules else o for n, o in state.opts.items()}
    )
    replay = init_replay(1000, 3, 1)
    ends = [
        list(train(algorithm, training, "Pendulum-v1", 0, state, replay, 160, native=native))[-1].state
        for native in (True, False)
    ]
    for name in state.params:
        before, *after = (jax.tree.leaves(s.opts[name].mask) for s in (state, *ends))
        assert any(not np.array_equal(a, b) for a, b in zip(before, after[0], strict=True))  # it moved
        for a, b in zip(*after, strict=True):
            assert np.array_equal(a, b)
        assert int(ends[0].opts[name].schedule.step) == int(ends[1].opts[name].schedule.step) == 120
        trees = [(s.params[name], s.opts[name].inner[0].mu, s.opts[name].inner[0].nu) for s in ends]
        for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            assert np.abs(a - b).max() <= 1e-4 * max(np.abs(b).max(), 1e-6)
        for leaf, kept in zip(jax.tree.leaves(ends[0].params[name]), after[0], strict=True):
            assert not np.asarray(leaf)[~np.asarray(kept)].view(np.uint32).any()


@needs_kernel
def test_normalized_critics_train_as_on_xla():
    algorithm = SACConfig(actor_hidden=(16, 16), critic_hidden=(16, 16), critic_layer_norm=True).build(Spaces(5, 2))
    state = ticket_state(algorithm)
    (have, _), (wanted, _) = (
        twenty_updates(algorithm, state, patterns_of(state)),
        twenty_updates(algorithm, state, None),
    )
    for a, b in zip(*(jax.tree.leaves(s.params) for s in (have, wanted)), strict=True):
        close(a, b)
