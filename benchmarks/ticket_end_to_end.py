"""Environment steps a second: a ticket's training, the dense agent's, SBX's and SB3's, all on the same one core, in turn.

    python benchmarks/ticket_end_to_end.py [--json] [--task HalfCheetah-v5] [--sparsity 0.95] [--core 0] [--steps 500] [--repeats 9]

One update for each environment step, everything included: the simulator, acting, the update, packing. `vs_dense`, `vs_sbx` and
`vs_sb3` are the ticket's rate over the others', of medians.
"""

from common import arguments, report
from trainers import rates

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--sparsity", type=float, default=0.95)
parser.add_argument("--core", type=int, default=0)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()


SIDES = {"dense": "xla", "dense_native": "dense", "ticket": "ticket", "sbx": "sbx", "sb3": "sb3"}


def main() -> None:
    rate = rates(SIDES, options.task, options.steps, options.sparsity, options.core, options.repeats)
    results = {f"vs_{name}": rate["ticket"] / rate[name] for name in ("dense", "sbx", "sb3")}
    steps = {f"{name}_steps_per_second": value for name, value in rate.items()}
    report({"task": options.task, "sparsity": options.sparsity, **results, **steps}, options.json)


main()
