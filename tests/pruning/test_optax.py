"""`keep_pruned_at_zero` in optimizers as people build them, and masks as files."""

import functools
import json
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.training.train_state import TrainState

import lth


def network():
    rng = np.random.default_rng(0)
    make = {"a": (4, 6), "b": (6, 3)}
    return {
        name: {"kernel": jnp.asarray(rng.normal(size=s), jnp.float32), "bias": jnp.ones(s[1])}
        for name, s in make.items()
    }


def loss(params):
    x = jnp.tanh(jnp.ones((2, 4)) @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.sum((x @ params["b"]["kernel"] + params["b"]["bias"] - 1.0) ** 2)


def adam():
    return lth.keep_pruned_at_zero(optax.adam(1e-2))


def by_name(params):
    return {name: jax.tree.map(lambda _, n=name: n, tree) for name, tree in params.items()}


BUILT = {
    "alone": adam,
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), adam()),
    "MultiSteps": lambda: optax.MultiSteps(adam(), 2).gradient_transformation(),
    "around MultiSteps": lambda: lth.keep_pruned_at_zero(optax.MultiSteps(optax.adam(1e-2), 2)),
    "inject_hyperparams": lambda: optax.inject_hyperparams(
        lambda learning_rate: lth.keep_pruned_at_zero(optax.adam(learning_rate))
    )(learning_rate=1e-2),
    "multi_transform": lambda: optax.multi_transform(
        {"a": adam(), "b": lth.keep_pruned_at_zero(optax.sgd(1e-2, momentum=0.9))}, by_name
    ),
    "masked": lambda: optax.masked(adam(), {"a": True, "b": True}),
    "apply_if_finite": lambda: optax.apply_if_finite(adam(), 3),
    "chain of chains": lambda: optax.chain(optax.chain(optax.apply_if_finite(adam(), 3)), optax.scale(1.0)),
    "reduce_on_plateau": lambda: lth.keep_pruned_at_zero(
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1))
    ),
    "polyak_sgd": lambda: lth.keep_pruned_at_zero(optax.polyak_sgd(0.1)),
    "lbfgs": lambda: lth.keep_pruned_at_zero(optax.lbfgs(0.1, linesearch=None)),
    "lbfgs with its line search": lambda: lth.keep_pruned_at_zero(optax.lbfgs()),
}


@pytest.mark.parametrize("name", BUILT)
def test_what_is_pruned_stays_zero_in_any_optimizer(name):
    params, tx = network(), BUILT[name]()
    mask = lth.prune(params, 0.5)
    params = lth.apply_mask(params, mask)
    state = lth.set_mask(tx.init(params), mask, params)
    start = params

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        more = {"value": value, "grad": grads, "value_fn": loss}
        updates, state = optax.with_extra_args_support(tx).update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        params, state = step(params, state)
    for leaf, kept, before in zip(*map(jax.tree.leaves, (params, mask, start)), strict=True):
        assert bool((leaf[kept == 0] == 0).all())
        assert bool((leaf != before).any())


def test_extra_arguments_arrive():
    seen = {}

    def update(updates, state, params=None, *, value, **extra):
        seen.update(value=value, **extra)
        return updates, state

    tx = lth.keep_pruned_at_zero(optax.GradientTransformationExtraArgs(lambda p: (), update))
    params = network()
    state = lth.set_mask(tx.init(params), lth.prune(params, 0.5), params)
    tx.update(params, state, params, value=3.0, other="x")
    assert seen == {"value": 3.0, "other": "x"}


def test_there_is_no_state_to_set_a_mask_in():
    params = network()
    mask = lth.prune(params, 0.5)
    with pytest.raises(lth.InputError, match=r"no state of lth.keep_pruned_at_zero.*Wrap the optimizer"):
        lth.set_mask(optax.adam(1e-2).init(params), mask, params)
    train_state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-2))
    with pytest.raises(lth.InputError, match=r"state.replace\(opt_state="):
        lth.set_mask(train_state, mask, params)
    parts = optax.multi_transform({"a": adam(), "b": optax.sgd(1e-2)}, by_name)
    with pytest.raises(lth.InputError, match=r"prunes 'b/kernel', but no keep_pruned_at_zero"):
        lth.set_mask(parts.init(params), mask, params)
    only_a = lth.prune(params, 0.5, exclude=["b"])
    lth.set_mask(parts.init(params), only_a, params)


def test_a_mask_of_another_kind_of_tree_is_refused_at_once():
    params = network()
    mask = FrozenDict(lth.prune(params, 0.5))
    with pytest.raises(lth.InputError, match="a different tree structure"):
        lth.set_mask(adam().init(params), mask, params)
    with pytest.raises(lth.InputError, match="a different tree structure"):
        lth.apply_mask(params, mask)


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_a_state_of_other_parameters_is_refused(kept):
    params = {"a": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}}
    mask = {"a": {"w": jnp.full((4, 4), kept), "b": jnp.ones(4)}}
    tx = lth.keep_pruned_at_zero(optax.adam(0.1))
    larger, more = {"a": {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}}, {**params, "z": jnp.ones(3)}
    for state, leaf in ((tx.init(larger), "'a/w'"), (tx.init(more), "'z'"), (optax.flatten(tx).init(params), "''")):
        with pytest.raises(lth.InputError, match=f"not that of these parameters: it has a leaf {leaf}"):
            lth.set_mask(state, mask, params)


def test_a_forgotten_mask_is_said():
    params, tx = network(), adam()
    with pytest.warns(UserWarning, match="no mask was set"):
        jax.jit(tx.update)(params, tx.init(params), params)
    ones = jax.tree.map(jnp.ones_like, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tx.update(params, lth.set_mask(tx.init(params), ones, params), params)


class Point(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def trees():
    eqx = pytest.importorskip("equinox")
    linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    return {
        "dicts": network(),
        "bfloat16": jax.tree.map(lambda x: x.astype(jnp.bfloat16), network()),
        "haiku": {"mlp/~/linear_0": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}},
        "pairs": [(jnp.arange(6.0).reshape(2, 3), jnp.ones(3)), (jnp.ones((3, 1)), jnp.ones(1))],
        "frozen": FrozenDict(Point().init(jax.random.key(0), jnp.ones((1, 2)))["params"]),
        "nnx": nnx.state(linear, nnx.Param),
        "equinox": eqx.filter(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)), eqx.is_inexact_array),
    }


@pytest.mark.parametrize("kind", ["dicts", "bfloat16", "haiku", "pairs", "frozen", "nnx", "equinox"])
def test_a_mask_comes_back_as_it_was(tmp_path, kind):
    params = trees()[kind]
    mask = lth.prune(params, 0.5, collapse="allow")
    path = lth.save_mask(tmp_path / "deep" / "m.safetensors", mask)
    back = lth.load_mask(path, like=params)
    assert jax.tree.structure(back) == jax.tree.structure(mask)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(mask), strict=True):
        assert a.dtype == b.dtype
        assert bool((a == b).all())
    nested = lth.load_mask(path)
    assert isinstance(nested, dict)
    if kind in ("dicts", "haiku", "bfloat16"):
        assert jax.tree.structure(nested) == jax.tree.structure(mask)
    assert [path.name for path in path.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({}, "empty"),
        ({"__metadata__": jnp.ones(2)}, "__metadata__"),
        ({"\ud800": jnp.ones(2)}, "surrogates"),
        (functools.reduce(lambda inner, _: {"a": inner}, range(101), jnp.ones(2)), "up to 100 keys"),
    ],
)
def test_a_mask_that_could_not_be_read_is_not_saved(tmp_path, mask, message):
    with pytest.raises(lth.InputError, match=message):
        lth.save_mask(tmp_path / "m.safetensors", mask)
    assert not list(tmp_path.iterdir())


def test_the_mask_of_a_bare_matrix_comes_back(tmp_path):
    mask = lth.load_mask(lth.save_mask(tmp_path / "m.safetensors", jnp.array([[1.0, 0.0]])))
    assert mask.tolist() == [[1.0, 0.0]]
    assert lth.compute_sparsity(np.int8(mask)) == 0.5


def test_a_mask_file_that_does_not_fit_or_is_none(tmp_path):
    params = network()
    path = lth.save_mask(tmp_path / "m.safetensors", lth.prune(params, 0.5))
    other = {**params, "a": {"kernel": jnp.ones((5, 6)), "bias": jnp.ones(6)}}
    with pytest.raises(lth.InputError, match=r"'a/kernel' has shape \(4, 6\).*\(5, 6\)"):
        lth.load_mask(path, like=other)
    with pytest.raises(lth.InputError, match="no leaf 'c'"):
        lth.load_mask(path, like={**params, "c": jnp.ones(2)})
    with pytest.raises(lth.InputError, match=r"holds 3.0 at \(0, 0\)"):
        lth.save_mask(tmp_path / "w", {"w": jnp.full((2, 2), 3.0)})
    with pytest.raises(lth.InputError, match="there is no mask file"):
        lth.load_mask(tmp_path / "none")
    with pytest.raises(lth.InputError, match="no mask file"):
        lth.load_mask(tmp_path)
    data = path.read_bytes()
    for damaged in (data[:-1], data[:20], b"", b"{}", data[:8] + b"x" + data[9:], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(lth.InputError):
            lth.load_mask(path)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for wrong in ("{}", '{"format": "lth-mask-1"}', '{"format": "lth-mask-1", "leaves": []}', "[]", "\\"):
        header["__metadata__"] = {"lth": wrong}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :])
        with pytest.raises(lth.InputError):
            lth.load_mask(path)


def test_double_precision_stays(run_command):
    program = """
import jax.numpy as jnp, optax, lth
from lth.pruning.schedules import prune_at, rigl
params = {"a": {"kernel": jnp.linspace(-1, 1, 12).reshape(4, 3) + 1e-12, "bias": jnp.ones(3)}}
assert params["a"]["kernel"].dtype == jnp.float64
loss = lambda p, x: jnp.sum((x @ p["a"]["kernel"]) ** 2)
for criterion in ("magnitude", "taylor", "grasp", "fisher"):
    mask = lth.prune(params, 0.5, criterion, loss=loss, batches=[jnp.ones((2, 4))])
    assert mask["a"]["kernel"].dtype == jnp.float64 and int((mask["a"]["kernel"] == 0).sum()) == 6
tx = lth.keep_pruned_at_zero(optax.adam(1e-2))
for schedule in (rigl(params, 2, 10), prune_at(params, 0.75, [1, 2])):
    state = lth.set_mask(tx.init(params), mask, params)._replace(schedule=schedule)
    p = lth.apply_mask(params, mask)
    for _ in range(3):
        updates, state = tx.update(p, state, p)
        p = optax.apply_updates(p, updates)
    assert p["a"]["kernel"].dtype == jnp.float64
    print(int((p["a"]["kernel"] == 0).sum()))
"""
    done = run_command("-c", program, env={"JAX_ENABLE_X64": "1"})
    assert done.stderr == ""
    assert done.stdout.split() == ["6", "9"]


def test_the_modules_are_there_after_import_lth(run_command):
    program = "import lth, sys; print('jax' in sys.modules, lth.sbx.prune_sbx, lth.sparse.pack, lth.stats.__name__)"
    done = run_command("-c", program)
    assert done.stderr == ""
    assert done.stdout.startswith("False <function prune_sbx")


@pytest.mark.parametrize(
    "changes",
    [
        *({"keys": "a/kernel"}, {"keys": []}, {"keys": ["a"] * 5000}, {"keys": [["a"], "kernel"]}, {"keys": [1, None]}),
        *({"dtype": []}, {"dtype": "f4,i4"}, {"dtype": "O"}, {"dtype": "S3"}, {"dtype": "M8[s]"}, {"dtype": None}),
    ],
)
def test_a_leaf_of_a_mask_file_that_is_described_wrongly(tmp_path, changes):
    path = lth.save_mask(tmp_path / "m.safetensors", lth.prune(network(), 0.5))
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    about = json.loads(header["__metadata__"]["lth"])
    about["leaves"]["a/kernel"].update(changes)
    header["__metadata__"]["lth"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(lth.InputError, match="a/kernel"):
        lth.load_mask(path)
