"""Measure the stability of masks against the draw of the batches, by number of batches.

    python benchmarks/stability.py RUN [--sparsity 0.95] [--reference 2000] [--exclude output] [--json]

RUN is a dense run with its replay buffer. Prints for each number of batches lth's agreement of two halves (`spearman`, `shared`),
and `reference`, the share of kept weights that a mask from `--reference` other batches also keeps.
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
from src.lth.experiment.masking import named_layers
from src.lth.saliency import gradient_halves


def main() -> None:
    """Measure and print."""
    agent, buffer, _ = lth.load(options.run)
    exclude, _ = named_layers(agent.config, options.exclude)
    params = agent.state.params
    long = lth.gradient_statistics(agent, buffer, options.reference, key=jax.random.key(1))
    found: dict[str, float] = {}
    for method in ("taylor", "gradient"):

        def masks(gradients: dict[str, object], method: str = method) -> dict[str, object]:
            return {
                name: lth.prune_kernels_by_gradient_saliency(
                    tree, gradients[name], options.sparsity, method, exclude=exclude[name]
                )
                for name, tree in params.items()
            }

        reference = masks(long)
        for n in options.batches:
            halves = gradient_halves(agent, buffer, n)
            half_masks = [masks(half) for half in halves]
            whole = masks(lth.gradient_statistics(agent, buffer, n))
            for network, tree in params.items():
                gradients = tuple(half[network] for half in halves)
                result = stability(tree, gradients, tuple(half[network] for half in half_masks), method)
                total = overlap(whole[network], reference[network])[0]
                name = f"{method}_{network}_{n}"
                found[f"{name}_spearman"] = result.spearman
                found[f"{name}_shared"] = result.shared
                found[f"{name}_reference"] = total.shared / total.kept
    report(found, options.json)


main()
