"""How stable masks are against the draw of their batches, by the number of batches.

    python benchmarks/stability.py RUN [--sparsity 0.95] [--reference 2000] [--exclude output] [--json]

RUN is a dense run with its replay buffer. For each number of batches: what lth records of two halves (`spearman`, `shared`),
and `reference`, the share of the kept weights that a mask from `--reference` other batches keeps too.
"""

from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("run", type=Path)
parser.add_argument("--sparsity", type=float, default=0.95)
parser.add_argument("--reference", type=int, default=2000)
parser.add_argument("--exclude", nargs="*", default=["output"])
parser.add_argument("--batches", nargs="*", type=int, default=[2, 4, 10, 20, 50, 100, 200, 400])
options = parser.parse_args()

import jax

import src.lth as lth
from src.lth.analysis.overlap import overlap
from src.lth.analysis.stability import stability
from src.lth.experiment.stages import named_layers
from src.lth.gradient_pruning import gradient_halves


def main() -> None:
    """Measure and print."""
    agent, buffer, _ = lth.load(options.run)
    exclude = named_layers(agent.config, options.exclude, "global")[0].values()
    params = (agent.state.actor_params, agent.state.critic_params)
    long = lth.accumulate_gradient_statistics(agent, buffer, options.reference, key=jax.random.key(1))
    found: dict[str, float] = {}
    for method in ("taylor", "gradient"):

        def masks(gradients: object, method: str = method) -> list[object]:
            return [
                lth.prune_kernels_by_gradient_saliency(p, g, options.sparsity, method, exclude=e)
                for p, g, e in zip(params, gradients, exclude, strict=True)
            ]

        reference = masks(long)
        for n in options.batches:
            halves = gradient_halves(agent, buffer, n)
            half_masks = [masks(half) for half in halves]
            whole = masks(lth.accumulate_gradient_statistics(agent, buffer, n))
            for i, network in enumerate(("actor", "critic")):
                result = stability(params[i], tuple(h[i] for h in halves), tuple(m[i] for m in half_masks), method)
                total = overlap(whole[i], reference[i])[0]
                name = f"{method}_{network}_{n}"
                found[f"{name}_spearman"] = result.spearman
                found[f"{name}_shared"] = result.shared
                found[f"{name}_reference"] = total.shared / total.kept
    report(found, options.json)


main()
