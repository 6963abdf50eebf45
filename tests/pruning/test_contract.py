"""What every criterion, allocation and schedule keeps: one table each, and all go through the same tests."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth.config import METHODS, SALIENCY_METHODS
from lth.pruning.allocation import PATHS, counts_by_layer, pruned_count
from lth.pruning.criteria import CRITERIA
from lth.pruning.gradients import STATISTICS
from lth.pruning.masks import pruned_counts
from lth.pruning.schedules import KINDS, prune_at, rigl, sparse_evolution

SPARSITIES = (0.0, 1e-6, 0.5, 0.999, 1.0)
ALLOCATIONS = ("global", "layer", "erk", {"a": 0.25, "c": 1.0})
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
SHAPES = {"a": (5, 6), "c": (1, 1), "d": (6, 3)}  # `c`: a layer of one weight
SIZE = 49


def network(dtype=jnp.float32, fill=None):
    rng = np.random.default_rng(0)
    make = (lambda shape: rng.normal(size=shape)) if fill is None else (lambda shape: np.full(shape, fill))
    layers = {
        name: {"kernel": jnp.asarray(make(shape), dtype), "bias": jnp.asarray(rng.normal(size=shape[1]), dtype)}
        for name, shape in SHAPES.items()
    }
    return {**layers, "norm": {"scale": jnp.ones(6, dtype)}}


def outputs(params, x):
    """A network in which every kernel and bias has a part."""
    x = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"]) * params["norm"]["scale"]
    return x @ params["d"]["kernel"] + params["d"]["bias"] + x[..., :1] @ params["c"]["kernel"] + params["c"]["bias"]


def loss(params, batch):
    return jnp.mean((outputs(params, batch[0]) - batch[1]) ** 2).astype(jnp.float32)


def flow(params, ones):
    return jnp.sum(outputs(params, ones)).astype(jnp.float32)


BATCHES = [tuple(np.random.default_rng(i).normal(size=(8, n)).astype(np.float32) for n in (5, 3)) for i in range(3)]


def needs(criterion, dtype=jnp.float32):
    """Return what a criterion has to be given: the table of this file."""
    statistic = CRITERIA[criterion].statistic
    if statistic is None:
        return {}
    if statistic == "uniform":
        return {"key": jax.random.key(1)}
    batches = [jnp.ones((1, 5))] if statistic == "flow" else BATCHES
    cast = [jax.tree.map(lambda x: jnp.asarray(x, dtype), batch) for batch in batches]
    return {"loss": flow if statistic == "flow" else loss, "batches": cast}


@functools.cache
def gathered(criterion):
    """Return the gradients at `network()`, so that they are taken once for many sparsities."""
    given = needs(criterion)
    if "loss" not in given:
        return given
    return {
        "gradients": lth.gradient_statistic(given["loss"], network(), given["batches"], CRITERIA[criterion].statistic)
    }


def kernels(tree):
    return {name: np.asarray(tree[name]["kernel"], np.float32) for name in SHAPES}


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, a, b))


def check_counts(mask, allocation, sparsity):
    wanted = counts_by_layer(allocation, list(SHAPES.values()), sparsity, list(SHAPES))
    counts = [pruned for pruned, _ in pruned_counts(mask).values()]
    assert (sum(counts) if isinstance(wanted, int) else counts) == wanted
    for name, layer in mask.items():
        assert all(bool((leaf == 1).all()) for part, leaf in layer.items() if part != "kernel"), name


prune = functools.partial(lth.prune, collapse="allow")


GRADIENT_METHODS = ("gradient", "taylor", "fisher", "snip", "grasp")


def test_the_tables_name_the_same():
    assert set(CRITERIA) == {*SALIENCY_METHODS, "random"}
    assert {name for name, row in CRITERIA.items() if row.statistic in STATISTICS} == {*GRADIENT_METHODS, "synflow"}
    assert {name for name, row in CRITERIA.items() if row.takes_gradients} == {*GRADIENT_METHODS}
    assert set(METHODS) == {*CRITERIA, "shuffled", "gradual", "set", "rigl"}


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=str)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("invert", [False, True])
def test_exact_counts_nested(criterion, allocation, invert):
    params, before = network(), None
    settings = {**gathered(criterion), "allocation": allocation, "invert": invert, "rounds": 1}
    for sparsity in SPARSITIES:
        mask = prune(params, sparsity, criterion, **settings)
        check_counts(mask, allocation, sparsity)
        nested = prune(params, sparsity, criterion, prev_mask=before, **settings)
        check_counts(nested, allocation, sparsity)
        if before is not None:
            assert all((kept <= kernels(before)[name]).all() for name, kept in kernels(nested).items())
        before = nested


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_higher_score_is_kept(criterion):
    params, given = network(), gathered(criterion)
    mask, inverse = (prune(params, 0.5, criterion, **given, rounds=1, invert=flag) for flag in (False, True))
    if criterion == "random":
        assert not same(mask, prune(params, 0.5, criterion, key=jax.random.key(2)))
        return
    statistic = given.get("gradients", params)
    scores = {n: np.asarray(CRITERIA[criterion].score(params[n]["kernel"], statistic[n]["kernel"])) for n in SHAPES}
    flat = np.concatenate([scores[n].ravel() for n in SHAPES])
    for found, sign in ((mask, 1), (inverse, -1)):
        kept = np.concatenate([kernels(found)[n].ravel() for n in SHAPES]).astype(bool)
        assert (sign * flat)[kept].min() >= (sign * flat)[~kept].max()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_from_a_loss_as_from_its_gradients_and_after_a_mask(criterion):
    params, before = network(), prune(network(), 0.3)
    mask = prune(params, 0.6, criterion, **needs(criterion), prev_mask=before)
    check_counts(mask, "global", 0.6)
    assert all((kept <= kernels(before)[name]).all() for name, kept in kernels(mask).items())
    if CRITERIA[criterion].rounds == 1:
        assert same(
            prune(params, 0.6, criterion, **needs(criterion)), prune(params, 0.6, criterion, **gathered(criterion))
        )
    many = prune(params, 0.9, criterion, **needs(criterion), rounds=3)
    check_counts(many, "global", 0.9)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_all_scores_zero_or_tied(criterion):
    params, zeros = network(fill=0.0), jax.tree.map(jnp.zeros_like, network())
    for sparsity in SPARSITIES:
        mask = prune(params, sparsity, criterion, gradients=zeros, key=jax.random.key(0), rounds=1)
        check_counts(mask, "global", sparsity)
        if criterion != "random":  # the earlier in tree order stay
            kept = np.concatenate([kernels(mask)[name].ravel() for name in SHAPES])
            gone = round(sparsity * SIZE)
            assert kept.tolist() == [1] * (SIZE - gone) + [0] * gone


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_structure_and_dtype_are_kept(criterion, dtype):
    params, given = network(dtype), dict(gathered(criterion))
    if "gradients" in given:
        given["gradients"] = jax.tree.map(lambda x: x.astype(dtype), given["gradients"])
    mask = prune(params, 0.5, criterion, **given, rounds=1)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert jax.tree.map(lambda m: (m.shape, m.dtype), mask) == jax.tree.map(lambda p: (p.shape, p.dtype), params)
    check_counts(mask, "global", 0.5)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_jit_equals_no_jit(criterion):
    params, given = network(), gathered(criterion)

    def one(params, gradients):
        return prune(params, 0.5, criterion, gradients=gradients, key=given.get("key"), rounds=1)

    arguments = params, given.get("gradients")
    assert same(jax.jit(one)(*arguments), one(*arguments))


def test_vmap_equals_a_loop():
    many = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), network())
    plain = [prune(jax.tree.map(lambda x, i=i: x[i], many), 0.5, allocation="layer") for i in range(2)]
    found = jax.vmap(lambda params: prune(params, 0.5, allocation="layer"))(many)
    assert same(found, jax.tree.map(lambda *xs: jnp.stack(xs), *plain))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_nan_is_refused_by_name(criterion):
    params = network()
    sick = {**params, "d": {**params["d"], "kernel": params["d"]["kernel"].at[2, 1].set(jnp.nan)}}
    with pytest.raises(lth.InputError, match="'d/kernel'"):
        prune(sick, 0.5, criterion, **gathered(criterion), rounds=1)
    if criterion in GRADIENT_METHODS:
        with pytest.raises(lth.InputError, match=r"NaN gradients: .*is not finite, first in batch 1 of 2"):
            prune(params, 0.5, criterion, loss=loss, batches=[BATCHES[0], tuple(np.nan * x for x in BATCHES[1])])
        with pytest.raises(lth.InputError, match="NaN gradients: 'a/kernel'"):
            prune(params, 0.5, criterion, gradients=jax.tree.map(lambda x: x * jnp.nan, params))


@pytest.mark.parametrize("criterion", [name for name, row in CRITERIA.items() if row.statistic])
def test_what_a_criterion_lacks_is_said(criterion):
    missing = "needs a random key" if criterion == "random" else f"needs gradients.*'{CRITERIA[criterion].statistic}'"
    with pytest.raises(lth.InputError, match=missing):
        prune(network(), 0.5, criterion)


TREES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3)


@settings(max_examples=12, deadline=None)
@given(
    TREES, st.sampled_from(sorted(CRITERIA)), st.floats(0, 1), st.sampled_from(["global", "layer", "erk"]), st.data()
)
def test_random_trees(shapes, criterion, sparsity, allocation, data):
    values = st.sampled_from([0.0, -0.0, 1.0, -2.0, 0.5, 1e-20, 3.0])

    def tree():
        flat = [data.draw(st.lists(values, min_size=a * b, max_size=a * b)) for a, b in shapes]
        return [(np.array(x, np.float32).reshape(s), np.ones(s[1])) for x, s in zip(flat, shapes, strict=True)]

    params, gradients = tree(), tree()
    if criterion == "synflow":
        gradients = jax.tree.map(np.abs, gradients)
    mask = prune(
        params, sparsity, criterion, gradients=gradients, key=jax.random.key(0), allocation=allocation, rounds=1
    )
    counts = [int((np.asarray(kernel) == 0).sum()) for kernel, _ in mask]
    assert sum(counts) == pruned_count(sum(a * b for a, b in shapes), sparsity)
    wanted = counts_by_layer(allocation, shapes, sparsity)
    assert isinstance(wanted, int) or counts == wanted
    assert all((np.asarray(bias) == 1).all() for _, bias in mask)


def test_layer_collapse_is_said_by_name():
    params = network()
    params["d"] = jax.tree.map(lambda x: x * 1e-6, params["d"])
    with pytest.warns(UserWarning, match=r"the mask: no weight is left in d, "):
        lth.prune(params, 18 / SIZE)
    with pytest.raises(lth.InputError, match="no weight is left in d"):
        lth.prune(params, 18 / SIZE, collapse="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lth.prune(params, 18 / SIZE, exclude=["c", "d"])
        lth.prune(params, 18 / SIZE, collapse="allow")


# --- schedules --------------------------------------------------------------------------------------------------------


def scheduled(name, params, last=12):
    """Return a schedule and the mask that training starts with: the table of this file."""
    start = prune(params, 0.5, "random", key=jax.random.key(0), allocation="erk")
    ones = jax.tree.map(jnp.ones_like, params)
    return {
        "geometric": lambda: (prune_at(params, 0.75, [1, 2, 5, 6, 8], "geometric"), ones),
        "cubic": lambda: (prune_at(params, 0.75, range(2, 11, 2)), ones),
        "cubic-erk": lambda: (prune_at(params, 0.75, range(2, 11, 2), allocation="erk", exclude=["a"]), start),
        "set": lambda: (sparse_evolution(params, 3, last, jax.random.key(2)), start),
        "rigl": lambda: (rigl(params, 3, last), start),
    }[name]()


SCHEDULES = ("geometric", "cubic", "cubic-erk", "set", "rigl")
TX = lth.keep_pruned_at_zero(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))


def start(name, params):
    schedule, mask = scheduled(name, params)
    params = lth.apply_mask(params, mask)
    return params, lth.set_mask(TX.init(params), mask, params)._replace(schedule=schedule)


def train_step(carry, batch):
    params, state = carry
    grads = jax.grad(loss)(params, batch)
    updates, state = TX.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), (params, state, grads)


@pytest.fixture(scope="module")
def histories():
    """Train 12 updates under each schedule; returns every state on the way."""
    traces = []

    @jax.jit
    def step(carry, batch):
        traces.append(1)
        return train_step(carry, batch)

    found = {}
    for name in SCHEDULES:
        carry, history = start(name, network()), []
        for i in range(12):
            before = carry
            carry, (params, state, grads) = step(carry, BATCHES[i % 3])
            history.append((before, params, state, grads))
        found[name] = history
    found |= {"compilations": len(traces), "step": step}
    return found


def numbers(mask):
    return [pruned for pruned, _ in pruned_counts(mask).values()]


def test_one_compilation_for_all_schedules_of_a_kind_and_shape(histories):
    assert {type(scheduled(name, network())[0]) for name in SCHEDULES} == set(KINDS)
    assert histories["compilations"] == len(SCHEDULES) - 1  # geometric and cubic: as many changes


def test_one_shot_is_one_change():
    schedule = prune_at(network(), 0.75, [4])
    assert (schedule.at.tolist(), schedule.counts.tolist()) == ([4], [[37]])


@pytest.mark.parametrize("name", SCHEDULES)
def test_pruned_weights_and_their_moments_are_zero_at_every_update(histories, name):
    for _, params, state, _ in histories[name]:
        moments = state.inner[1][0]
        for tree in (params, moments.mu, moments.nu):
            for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(state.mask), strict=True):
                assert bool((leaf[~kept] == 0.0).all())
        biases = [bool(state.mask[layer]["bias"].all()) for layer in SHAPES]
        assert all(biases)
        assert bool(state.mask["norm"]["scale"].all())


@pytest.mark.parametrize("name", SCHEDULES[:3])
def test_pruning_schedules_hit_their_counts(histories, name):
    schedule, first = scheduled(name, network())
    at, before = schedule.at.tolist(), numbers(first)
    path = PATHS[name.removesuffix("-erk")](0.75, 5)
    for i, (_, _, state, _) in enumerate(histories[name], 1):
        now = numbers(state.mask)
        if i not in at:
            assert now == before
        elif name == "cubic-erk":
            wanted = schedule.counts[at.index(i)][np.asarray(schedule.prunable)]
            assert now[1:] == np.maximum(wanted, before[1:]).tolist()
            assert now[0] == before[0] > 0  # excluded: as the mask had it
        else:
            assert sum(now) == pruned_count(SIZE, path[at.index(i)])
        assert all(a >= b for a, b in zip(now, before, strict=True))
        before = now


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_dynamic_schedules_move_weights_and_keep_the_counts(histories, name):
    first = numbers(scheduled(name, network())[1])
    for i, ((old, old_state), params, state, grads) in enumerate(histories[name], 1):
        assert numbers(state.mask) == first
        if i % 3 or i == 12:
            assert same(old_state.mask, state.mask)
            continue
        assert i > 3 or not same(old_state.mask, state.mask)
        fraction = 0.3 if name == "set" else 0.15 * (1 + np.cos(np.pi * i / 12))
        for layer in SHAPES:
            was, kept = (np.asarray(s.mask[layer]["kernel"]) for s in (old_state, state))
            grown, dropped = kept & ~was, was & ~kept
            assert grown.sum() == dropped.sum() <= np.floor(fraction * was.sum())
            assert (np.asarray(params[layer]["kernel"])[grown] == 0).all()
            if name == "rigl":
                # By hand: the smallest |w| go, the largest |dL/dw| of what is empty then come.
                weights = np.abs(np.asarray(old[layer]["kernel"])).ravel()
                growth = np.abs(np.asarray(grads[layer]["kernel"])).ravel()
                k, active = int(np.floor(fraction * was.sum())), set(np.flatnonzero(was))
                active -= set(sorted(active, key=lambda j: weights[j])[:k])
                active |= set(sorted(set(range(was.size)) - active, key=lambda j: -growth[j])[:k])
                assert sorted(active) == np.flatnonzero(kept).tolist()
        if name == "rigl":  # in the place of a step: what stays has not moved
            for leaf, before, kept in zip(*(jax.tree.leaves(t) for t in (params, old, state.mask)), strict=True):
                assert bool((leaf[kept] == before[kept]).all())


def test_scan_and_vmap_equal_a_python_loop(histories):
    batches = jax.tree.map(lambda *xs: np.stack(xs), *[BATCHES[i % 3] for i in range(12)])
    params, state = start("rigl", network())
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), (params, state))
    (_, ends), _ = jax.jit(lambda carry: jax.lax.scan(jax.vmap(train_step, (0, None)), carry, batches))(twice)
    for i in range(2):
        assert same(jax.tree.map(lambda m, i=i: m[i], ends.mask), histories["rigl"][-1][2].mask)


def test_a_dense_layer_stays_dense_under_rigl(histories):
    params = network()
    mask = {**jax.tree.map(jnp.ones_like, params), "a": prune(params, 0.5)["a"]}
    state = lth.set_mask(TX.init(params), mask, params)._replace(schedule=rigl(params, 1, 100))
    _, (_, after, _) = histories["step"]((lth.apply_mask(params, mask), state), BATCHES[0])
    assert numbers(after.mask) == numbers(mask)
    assert all(bool(after.mask[layer]["kernel"].all()) for layer in ("c", "d"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: prune_at(p, 0.5, [3, 2]), "increasing"),
        (lambda p: prune_at(p, 0.5, []), "increasing"),
        (lambda p: prune_at(p, 0.5, [1], "cubical"), "did you mean 'cubic'"),
        (lambda p: prune_at(p, 1.5, [1]), "fraction of weights"),
        (lambda p: rigl(p, 0, 10), "every=0"),
        (lambda p: sparse_evolution(p, 1, 10, jax.random.key(0), fraction=1.0), "fraction=1.0"),
        (lambda p: lth.prune(p, 0.5, allocation={"e": 0.5}), "unknown layer 'e'"),
        (lambda p: lth.prune(p, 0.5, rounds=0), "rounds is 0"),
        (
            lambda p: lth.prune(p, 0.5, "synflow", loss=lambda q, x: -flow(q, x), batches=[np.ones((1, 5))]),
            "are negative",
        ),
        (lambda p: lth.prune(p, 0.5, "snip", loss=loss, batches=[]), "there are no batches"),
        (lambda p: lth.prune(p, 0.5, "snip", loss=loss, batches=[BATCHES[0], BATCHES[0][:1]]), "batch 1 has arrays"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(lth.InputError, match=message):
        call(network())
