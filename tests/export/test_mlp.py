"""Networks of any JAX library: read as chains, shrunk in their own layout, and exported against their own apply."""

import itertools
import runpy
import shutil
import subprocess
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth.pruning.chains import read_chain

SIZES = (5, 16, 12, 3)


def chain_of(seed=0):
    """Return kernels of which most weights are pruned, biases, and a forward pass written out."""
    rng = np.random.default_rng(seed)
    pairs = [
        (rng.normal(size=(a, b)) * (rng.random((a, b)) < 0.2), rng.normal(size=b)) for a, b in itertools.pairwise(SIZES)
    ]
    return [(jnp.asarray(k, jnp.float32), jnp.asarray(b, jnp.float32)) for k, b in pairs]


def flax_tree(chain):
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in SIZES[1:-1]:
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(SIZES[-1])(x)

    params = {"params": {f"Dense_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(chain)}}
    assert jax.tree.structure(params) == jax.tree.structure(Net().init(jax.random.key(0), X))
    return params, None  # Flax compares the shapes with the module's widths


def haiku_tree(chain):
    names = ["mlp/~/linear_0", "mlp/~/linear_1", "mlp/~/linear_2"]
    return {name: {"w": k, "b": b} for name, (k, b) in zip(names, chain, strict=True)}, None


def equinox_tree(chain):
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    linear = [eqx.nn.Linear(a, b, key=key) for a, b, key in zip(SIZES, SIZES[1:], keys, strict=False)]
    model = eqx.nn.Sequential([linear[0], eqx.nn.Lambda(jax.nn.relu), linear[1], eqx.nn.Lambda(jax.nn.relu), linear[2]])
    where = lambda m: [x for i in (0, 2, 4) for x in (m.layers[i].weight, m.layers[i].bias)]  # noqa: E731
    model = eqx.tree_at(where, model, [x for k, b in chain for x in (k.T, b)])
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x)


def nnx_tree(chain):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden_0 = nnx.Linear(5, 16, rngs=rngs)
            self.hidden_1 = nnx.Linear(16, 12, rngs=rngs)
            self.output = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.output(jax.nn.relu(self.hidden_1(jax.nn.relu(self.hidden_0(x)))))

    model = Net(nnx.Rngs(0))
    graph, state = nnx.split(model, nnx.Param)
    leaves = [x for k, b in chain for x in (b, k)]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    return state, lambda p, x: nnx.merge(graph, p)(x)


LIBRARIES = {"flax": flax_tree, "equinox": equinox_tree, "haiku": haiku_tree, "nnx": nnx_tree}


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request):
    chain = chain_of()
    return (chain, *LIBRARIES[request.param](chain))


def forward(chain, x):
    for kernel, bias in chain[:-1]:
        x = np.maximum(x @ np.asarray(kernel, float) + np.asarray(bias), 0)
    return x @ np.asarray(chain[-1][0], float) + np.asarray(chain[-1][1])


X = np.random.default_rng(5).normal(size=(40, 5)).astype(np.float32)


def test_a_network_is_read_in_its_own_layout_and_shrinks_in_it(library):
    chain, params, apply = library
    read = read_chain(params).chain
    assert all((a == b).all() and (c == d).all() for (a, c), (b, d) in zip(read, chain, strict=True))
    small = lth.shrink(params)
    assert jax.tree.structure(small) == jax.tree.structure(params)
    sizes = [k.shape for k, _ in read_chain(small).chain]
    assert sizes == [k.shape for k, _ in lth.shrink(chain)]
    assert sizes[1][0] < 16
    assert np.allclose(forward(read_chain(small).chain, X), forward(chain, X), atol=1e-5)
    if apply:  # the library's own forward pass takes the smaller arrays
        assert np.allclose(apply(small, X), forward(chain, X), atol=1e-4)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_network_is_exported_against_its_own_forward_pass(tmp_path):
    chain = chain_of()
    params, apply = equinox_tree(chain)
    std = np.linspace(0.5, 2, 5)
    made = lth.export_mlp(
        params, tmp_path, ("c", "numpy"), squash="tanh", low=-2, high=[1, 2, 3], mean=0.5, std=std, clip=3, apply=apply
    )
    assert [row.name for row in made.rows] == ["agent", "c", "numpy"]
    assert max(row.deviation for row in made.rows) < 1e-5
    act = runpy.run_path(str(tmp_path / "numpy" / "policy.py"))["act"]
    squashed = np.tanh(forward(chain, np.clip((X - 0.5) / std, -3, 3)))
    low, high = np.full(3, -2.0), np.array([1.0, 2.0, 3.0])
    assert np.allclose(act(X), low + (squashed + 1) / 2 * (high - low), atol=1e-5)


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("make")), reason="no C compiler")
@pytest.mark.parametrize("squash", ["tanh", "none", "argmax"])
def test_a_replay_allows_what_the_check_allows(squash, tmp_path):
    """Actions of very different ranges, actions beyond 1, and two actions that are equal up to rounding."""
    rng = np.random.default_rng(0)
    kernel, last, bias = rng.normal(size=(4, 32)), rng.normal(size=(32, 3)) * 0.1, np.zeros(3)
    last[:, 1], how = last[:, 0] * (1 + 1e-7), {}
    if squash == "tanh":
        how = {"low": [-1, -1e3, -2], "high": [1, 1e3, 2]}
    elif squash == "none":
        bias = np.full(3, 1e3)
    made = lth.export_mlp([(kernel, np.zeros(32)), (last, bias)], tmp_path, "c", squash=squash, **how)
    assert made.rows[1].deviation < 1e-5
    replay = lambda: subprocess.run(["make", "check"], cwd=tmp_path / "c", capture_output=True, text=True, check=False)  # noqa: E731
    done = replay()
    assert (done.returncode, " 0 actions differ" in done.stdout, "warning" in done.stderr) == (0, True, False)
    if squash != "argmax":
        recorded = tmp_path / "c" / "src" / "rollout.h"
        recorded.write_text(recorded.read_text().replace("ROLLOUT_TOLERANCE ", "ROLLOUT_TOLERANCE -"))
        assert " 600 actions differ" in replay().stdout  # it does compare


def test_a_forward_pass_that_is_another_network_fails_the_check(tmp_path):
    params, apply = equinox_tree(chain_of())
    for how in ({"to": "numpy"}, {"to": "c", "quantize": "int8"}):
        with pytest.raises(
            lth.ExportError, match=r"differs from the agent.*likely cause is that activation='tanh', `order`"
        ):
            lth.export_mlp(params, tmp_path / "x", activation="tanh", apply=apply, **how)
    assert not (tmp_path / "x").exists()


PAIR = [(np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros(2)), (np.ones((2, 1)), np.zeros(1))]


def with_value(value, leaf):
    """Return PAIR with one number of the second kernel (0) or bias (1) replaced."""
    last = [leaf_.astype(np.result_type(leaf_, type(value))) for leaf_ in PAIR[1]]
    last[leaf].flat[0] = value
    return [PAIR[0], tuple(last)]


REFUSED = {
    "a kernel with NaN": (with_value(np.nan, 0), {}, r"kernel of layer 1: nan at \(0, 0\) is not finite"),
    "a bias with infinity": (with_value(np.inf, 1), {}, r"bias of layer 1: inf at \(0,\) is not finite"),
    "a kernel beyond float32": (with_value(1e300, 0), {}, r"kernel of layer 1: 1e\+300 .*not finite in float32"),
    "a complex kernel": (with_value(1j, 0), {}, "kernel of layer 1: .*real numbers.*complex"),
    "a ragged kernel": ([([[1], [1, 2]], [0])], {}, "kernel of layer 0: not an array of numbers"),
    "no layers": ([], {}, "at least one layer"),
    "no inputs": ([(np.zeros((0, 2)), np.zeros(2))], {}, r"\(0, 2\).*inputs and units"),
    "no units": ([(np.zeros((2, 0)), np.zeros(0)), (np.zeros((0, 1)), np.zeros(1))], {}, "inputs and units"),
    "numbers as layers": ([(1.0, 2.0)], {}, "layer 0 of the chain"),
    "outputs beyond float32": (with_value(3e38, 0), {}, "recorded actions: .*not finite"),
    "an order of pairs": (PAIR, {"order": ["x", "y"]}, "order is .*layers have no names"),
    "no examples": (PAIR, {"examples": np.zeros((0, 2))}, r"examples have shape \(0, 2\)"),
    "an example with NaN": (PAIR, {"examples": [[0, np.nan]]}, r"examples: nan at \(0, 1\)"),
    "examples of text": (PAIR, {"examples": [["a", "b"]]}, "examples: .*real numbers"),
    "a mean of NaN": (PAIR, {"mean": np.nan}, "mean: nan is not finite"),
    "a std of 0": (PAIR, {"std": [1, 0]}, "std is 0 at input 1"),
    "a negative std": (PAIR, {"std": -1.0}, "std is -1 at input 0"),
    "a std with an infinite inverse": (PAIR, {"std": 1e-44}, "std is .* must be at least"),
    "a clip of NaN": (PAIR, {"clip": np.nan}, "clip: nan is not finite"),
    "a negative clip": (PAIR, {"clip": -1.0}, "clip is -1.0, but must be one positive number"),
    "a clip per input": (PAIR, {"clip": [1.0, 2.0]}, "one positive number"),
    "low above high": (PAIR, {"squash": "tanh", "low": 2.0, "high": 1.0}, "low is 2 and high is 1 at output 0"),
    "low above the default of high": (PAIR, {"squash": "clip", "low": 2.0}, "low is 2 and high is 1"),
    "an infinite high": (PAIR, {"squash": "clip", "high": np.inf}, "high: inf is not finite.*squash='none'"),
    "a range beyond float32": (PAIR, {"squash": "tanh", "low": -3e38, "high": 3e38}, "exceeds float32"),
    "bounds without effect": (PAIR, {"squash": "argmax", "high": 2.0}, "high has no effect with squash='argmax'"),
    "an apply of another shape": (PAIR, {"apply": lambda params, x: x}, r"apply returned float32 \(2, 2\)"),
    "an apply of complex numbers": (PAIR, {"apply": lambda params, x: x[:, 0] * 1j}, "apply returned complex64"),
    "an apply that returns NaN": (PAIR, {"apply": lambda params, x: x[:, 0] * np.nan}, "recorded actions: nan"),
    "a function as activation": (PAIR, {"activation": jax.nn.relu}, "choose from relu, tanh"),
}


@pytest.mark.parametrize(("params", "how", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_no_program_could_compute_is_refused_with_its_name(params, how, message, tmp_path):
    with pytest.raises(lth.InputError, match=message):
        lth.export_mlp(params, tmp_path / "x", "numpy", **how)
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
@pytest.mark.parametrize("largest", [1e-44, 1e-42, 1e-38, 1.0, 3.4028235e38])
def test_eight_bits_hold_weights_of_any_size(largest, tmp_path):
    kernel = np.array([[1.0, 0.0], [-0.5, 0.2]]) * largest
    made = lth.export_mlp([(kernel, np.ones(2))], tmp_path, "c", quantize="int8", examples=[[0.1, 0.1], [0.2, -0.3]])
    row = made.rows[-1]
    assert row.name == "c int8"
    assert 0 <= row.deviation < 0.01


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_tables_count_beyond_16_bits(tmp_path):
    n = 66_000
    kernel = np.zeros((n, 3), np.float32)
    kernel[1:, 0] = 1e-5  # input 0 is not read, so that a table lists the inputs that are
    x = np.arange(n)[None] % 3 - 1
    made = lth.export_mlp([(kernel, np.ones(3))], tmp_path, "c", examples=x)
    source = (tmp_path / "c" / "src" / "policy.c").read_text()
    assert all(f"int32_t {table}[" in source for table in ("reads", "layer0_columns", "layer0_counts"))
    assert made.rows[-1].deviation < 1e-5
    assert made.not_needed == ["input 0"]
    assert made.contract["sizes"]["constants_bytes"] == (n - 1) * (4 + 4 + 4) + 3 * (4 + 4)


def test_the_order_of_layers():
    chain = chain_of()
    named = {"torso": chain[0], "middle": chain[1], "a_head": chain[2]}
    params = {name: {"kernel": k, "bias": b} for name, (k, b) in named.items()}
    assert [names[0] for names in read_chain(params).names] == ["torso/kernel", "middle/kernel", "a_head/kernel"]
    square = {"b": {"kernel": np.eye(4)}, "a": {"kernel": np.ones((4, 4))}}
    with pytest.warns(UserWarning, match="order of the layers is assumed to be that of the alphabet, a, b"):
        assert [names[0] for names in read_chain(square).names] == ["a/kernel", "b/kernel"]
    assert [names[0] for names in read_chain(square, order=["b", "a"]).names] == ["b/kernel", "a/kernel"]
    many = {f"Dense_{i}": {"kernel": np.eye(4)} for i in range(12)}
    assert [names[0] for names in read_chain(many).names] == [f"Dense_{i}/kernel" for i in range(12)]


@pytest.mark.parametrize(
    ("names", "doubtful"),
    [
        ("decoder encoder", True),
        ("dense_0 dense_1 middle", True),
        ("head torso", True),  # the alphabet is surely wrong
        ("layer_0 layer_1 output", False),
        ("linear linear_1 linear_2", False),
        ("fc1 fc2 fc10 net/out", False),
        ("blocks/0/dense_1 blocks/1/dense_0", False),
    ],
)
def test_an_order_that_only_the_alphabet_tells_is_a_warning(names, doubtful):
    params = {name: {"kernel": np.eye(4)} for name in names.split()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_chain(params)
    assert [kernel.removesuffix("/kernel") for kernel, _ in found.names] == names.split()
    assert bool(told) == doubtful
    assert not read_chain(params, order=names.split()).names[0][1]  # an order that is given is no doubt


def test_many_layers_that_fit_in_one_order_only_are_read_at_once():
    """A search through all subsets of 30 layers would not end: `head` cannot be last, since only it reads 8 inputs."""
    params = {"head": {"kernel": np.ones((8, 4))}, **{f"j{chr(97 + i)}": {"kernel": np.eye(4)} for i in range(26)}}
    with pytest.warns(UserWarning, match="order of the layers is assumed to be that of the alphabet"):
        assert read_chain(params).names[0][0] == "head/kernel"


def test_what_is_no_chain():
    chain = chain_of()
    with pytest.raises(lth.InputError, match="'norm/scale': a chain has only dense layers"):
        lth.shrink({"a": {"kernel": chain[0][0], "bias": chain[0][1]}, "norm": {"scale": np.ones(16)}})
    with pytest.raises(lth.InputError, match=r"order of the layers is ambiguous: a \(5, 16\), b \(5, 16\)"):
        lth.shrink({"a": {"kernel": chain[0][0]}, "b": {"kernel": chain[0][0]}})
    with pytest.raises(lth.InputError, match="order is x, but the layers are a"):
        lth.shrink({"a": {"kernel": chain[0][0]}}, order=["x"])
    constant = {"fc1": {"kernel": np.zeros((2, 2)), "bias": np.ones(2)}, "fc2": {"kernel": np.eye(2)}}
    with pytest.raises(lth.InputError, match="has no bias"):
        lth.shrink(constant)
    with pytest.raises(lth.InputError, match="unknown activation 'gelu'"):
        lth.export_mlp(chain, "nowhere", activation="gelu")
