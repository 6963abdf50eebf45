"""Sparse training of one network by lth, SparseLab, torch.sparse and JAX's BCOO, and by dense XLA and PyTorch, on one core.

    pip install -e '.[peers]'
    taskset -c 0 python benchmarks/peers.py [--json] [--repeats 21]

The network is 23-256-256-1 with ReLU, the batch 256, float32. Timed is what a user calls: the loss mean(y^2) forward and its
gradients by the kept weights and the biases, without an optimizer. Both hidden layers lose the same share of their weights at
random (SparseLab draws its own mask), the output layer none. Each side is called in turn, and the median of interleaved repeats
counts. A side whose package is missing is left out.
"""

import contextlib
from itertools import pairwise

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=21)
parser.add_argument("--calls", type=int, default=20, help="calls in each repeat")
options = parser.parse_args()

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse as jax_sparse

from src.lth.sparse import make_pattern, pack, sparse_mlp

SIZES, BATCH, SPARSITIES = (23, 256, 256, 1), 256, (0.8, 0.9, 0.95)
NAMES = ("layer_0", "layer_1", "output")


def network(sparsity: float, rng: np.random.Generator):
    """Return parameters and a mask that keeps the same share of both hidden kernels."""
    params, mask = {}, {}
    for name, n, m in zip(NAMES, SIZES, SIZES[1:], strict=False):
        kernel = rng.normal(size=(n, m)).astype(np.float32) / np.sqrt(n)
        keep = np.ones((n, m), np.float32)
        if name != "output":
            keep.flat[rng.permutation(n * m)[: round(sparsity * n * m)]] = 0.0
        params[name] = {"kernel": jnp.asarray(kernel * keep), "bias": jnp.zeros(m)}
        mask[name] = {"kernel": keep, "bias": np.ones(m, np.float32)}
    return params, mask


def jax_sides(params, mask, x):
    """lth, dense XLA under a mask, and BCOO."""
    pattern = make_pattern(mask)
    theta, apply = pack(pattern, params), sparse_mlp(pattern)
    ours = jax.jit(jax.grad(lambda theta: jnp.mean(apply(theta, x) ** 2)))

    def dense(params):
        y = x
        for name in NAMES:
            y = y @ (params[name]["kernel"] * mask[name]["kernel"]) + params[name]["bias"]
            y = y if name == "output" else jax.nn.relu(y)
        return jnp.mean(y**2)

    places = {name: np.argwhere(mask[name]["kernel"].T) for name in NAMES}
    values = {n: np.asarray(params[n]["kernel"]).T[tuple(places[n].T)] for n in NAMES}
    leaves = {n: {"data": jnp.asarray(values[n]), "bias": params[n]["bias"]} for n in NAMES}

    def bcoo(leaves):
        y = x.T
        for name, n, m in zip(NAMES, SIZES, SIZES[1:], strict=False):
            matrix = jax_sparse.BCOO(
                (leaves[name]["data"], places[name]), shape=(m, n), indices_sorted=True, unique_indices=True
            )
            y = matrix @ y + leaves[name]["bias"][:, None]
            y = y if name == "output" else jax.nn.relu(y)
        return jnp.mean(y**2)

    compiled = {"XLA dense": (jax.jit(jax.grad(dense)), params), "JAX BCOO": (jax.jit(jax.grad(bcoo)), leaves)}
    sides = {"lth": lambda: jax.block_until_ready(ours(theta))}
    for name, (gradients, argument) in compiled.items():
        sides[name] = lambda f=gradients, a=argument: jax.block_until_ready(f(a))
    return sides


def torch_sides(params, sparsity: float, x):
    """Dense PyTorch, torch.sparse (COO, whose gradients are sparse too), and SparseLab."""
    import torch

    torch.set_num_threads(1)
    inputs = torch.from_numpy(np.array(x))
    kernels = {n: torch.from_numpy(np.array(params[n]["kernel"]).T.copy()) for n in NAMES}

    def step(model, leaves):
        def call():
            for leaf in leaves:
                leaf.grad = None
            model().pow(2).mean().backward()

        return call

    weights = {n: k.clone().requires_grad_() for n, k in kernels.items()}
    biases = {n: torch.zeros(len(k), requires_grad=True) for n, k in kernels.items()}

    def dense():
        y = inputs
        for n in NAMES:
            y = torch.nn.functional.linear(y, weights[n], biases[n])
            y = y if n == "output" else torch.relu(y)
        return y

    coo = {n: k.to_sparse_coo().coalesce().requires_grad_() for n, k in kernels.items()}

    def sparse():
        y = inputs.T
        for n in NAMES:
            y = torch.sparse.mm(coo[n], y) + biases[n][:, None]
            y = y if n == "output" else torch.relu(y)
        return y

    sides = {
        "PyTorch dense": step(dense, [*weights.values(), *biases.values()]),
        "torch.sparse": step(sparse, [*coo.values(), *biases.values()]),
    }
    try:
        from sparselab import SparseLinear
    except ImportError:
        return sides
    layers: list[torch.nn.Module] = []
    for inner, outer in pairwise(SIZES[:-1]):
        layers += [SparseLinear(inner, outer, sparsity=sparsity), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*SIZES[-2:]))
    return {**sides, "SparseLab": step(lambda: model(inputs), list(model.parameters()))}


def measure(sparsity: float) -> dict[str, float]:
    """Return the microseconds of a call by side."""
    rng = np.random.default_rng(0)
    params, mask = network(sparsity, rng)
    x = jnp.asarray(rng.normal(size=(BATCH, SIZES[0])).astype(np.float32))
    sides = jax_sides(params, mask, x)
    with contextlib.suppress(ImportError):
        sides |= torch_sides(params, sparsity, x)
    for call in sides.values():  # compile, and fill the caches
        call()

    def many(call):
        def calls():
            for _ in range(options.calls):
                call()

        return calls

    seconds = interleave({name: many(call) for name, call in sides.items()}, options.repeats)
    return {name: 1e6 * value / options.calls for name, value in seconds.items()}


results = {}
for sparsity in SPARSITIES:
    results |= {f"us_{side}_{sparsity}": value for side, value in measure(sparsity).items()}
report(results, options.json)
