"""Compare the environment steps per second of RigL on the native kernel, RigL on XLA and dense training on XLA, on one core.

    python benchmarks/dynamic.py [--json] [--task HalfCheetah-v5] [--sparsity 0.9] [--core 0] [--steps 500] [--repeats 9]

The mask changes every 100 updates, as in Evci et al. 2020. There is one update per environment step. The time includes the
simulator, acting, the update, and at a mask change a dense update and the kernel's new pattern. `vs_dense` and `vs_rigl_xla` are
the ratios of the median rates, kernel over the others.
"""

from common import arguments, report
from trainers import rates

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--core", type=int, default=0)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

SIDES = {"native": "rigl", "dense": "xla", "rigl_xla": "rigl-xla"}


def main() -> None:
    rate = rates(SIDES, options.task, options.steps, options.sparsity, options.core, options.repeats)
    results = {f"vs_{name}": rate["native"] / rate[name] for name in ("dense", "rigl_xla")}
    steps = {f"{name}_steps_per_second": value for name, value in rate.items()}
    report({"task": options.task, "sparsity": options.sparsity, **results, **steps}, options.json)


main()
