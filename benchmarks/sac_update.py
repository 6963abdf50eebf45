"""Measure the fused dense SAC update on the native kernel and on XLA, as a share of one core's peak performance.

    python benchmarks/sac_update.py [--json] [--batch 256] [--width 256] [--threads 1] [--updates 50] [--repeats 7]

Times updates of the agent at Meta-World's sizes (39 observations, 4 actions, two hidden layers) in the call that training makes
(draw, insert, gather, update), with many updates per call. `share_of_peak` is its useful floating-point operations per second over
the fused multiply-adds per second of the same core in a loop without memory traffic (a few lines of C; needs a C compiler). All are
measured alternately in one process, and medians are compared. With `--threads N`, the kernel's N threads are compared with one
(`threads_speedup`).
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--threads", type=int, default=1, help="threads of the native kernel, compared with one")
parser.add_argument("--updates", type=int, default=50)
parser.add_argument("--repeats", type=int, default=7)
options = parser.parse_args()

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np

from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import draw, learner
from src.lth.algorithms.packed import pack_state, patterns_of
from src.lth.config import SACConfig
from src.lth.replay import init_replay, insert
from src.lth.sparse.native import set_threads as kernel_threads

OBSERVATION_DIM, ACTION_DIM, ROWS, SPINS = 39, 4, 100_000, 20_000_000

PEAK = r"""
// Twelve independent chains of the widest fused multiply-adds of this processor: enough to fill two units.
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
int width(void) { return LANES; }
float spin(long n) {
    lanes a[12], x, y;
    for (int j = 0; j < LANES; j++) { x[j] = 0.999999f; y[j] = 1e-6f; }
    for (int i = 0; i < 12; i++) a[i] = x * (float)i;
    for (long k = 0; k < n; k++)
        for (int i = 0; i < 12; i++) a[i] = a[i] * x + y;
    for (int i = 1; i < 12; i++) a[0] += a[i];
    return a[0][0];
}
"""


def peak_loop() -> ctypes.CDLL:
    """Compile the loop that measures the peak."""
    folder = Path(tempfile.mkdtemp())
    (folder / "peak.c").write_text(PEAK)
    compiler = os.environ.get("CC", "cc")
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", folder / "peak.so", folder / "peak.c"], check=True)
    library = ctypes.CDLL(str(folder / "peak.so"))
    library.spin.argtypes, library.spin.restype = [ctypes.c_long], ctypes.c_float
    return library


def update_flops(width: int, batch: int) -> int:
    """Count the matrix products of one update (2 operations a multiply-add), each gradient only where it is needed."""
    actor_in, critic_in = OBSERVATION_DIM * width, (OBSERVATION_DIM + ACTION_DIM) * width
    actor = actor_in + width * width + width * 2 * ACTION_DIM
    critic = critic_in + width * width + width
    target = actor + 2 * critic
    critics = 2 * critic + 2 * critic + 2 * (critic - critic_in)  # forward, by weights, by inputs but the first layer's
    policy = actor + 2 * critic + 2 * critic + actor + (actor - actor_in)
    return 2 * batch * (target + critics + policy)


def main() -> None:
    config = SACConfig(actor_hidden=(options.width,) * 2, critic_hidden=(options.width,) * 2)
    algorithm = config.build(Spaces(OBSERVATION_DIM, ACTION_DIM))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, 2 * OBSERVATION_DIM + ACTION_DIM + 2)).astype(np.float32)

    def side(native: bool, threads: int = 1):
        state = algorithm.init(jax.random.key(0))
        patterns = patterns_of(state) if native else None
        state = pack_state(patterns, state) if native else state
        carry = [state, insert(init_replay(ROWS, OBSERVATION_DIM, ACTION_DIM), rows)]
        learn = learner(algorithm, patterns)

        def updates() -> None:
            kernel_threads(threads)
            draws = draw(algorithm, rng, options.updates, options.batch, ROWS)
            carry[0], carry[1], flat, _ = learn(*carry, rows[:1], draws)
            jax.block_until_ready(flat)

        updates()
        return updates

    library = peak_loop()
    sides = {"native": side(True), "xla": side(False), "peak": lambda: library.spin(SPINS)}
    if options.threads > 1:
        sides["threads"] = side(True, options.threads)
    seconds = interleave(sides, options.repeats)
    peak = SPINS * 12 * library.width() * 2 / seconds["peak"]
    reached = {
        name: update_flops(options.width, options.batch) * options.updates / seconds[name] for name in ("native", "xla")
    }
    results = {
        "share_of_peak": reached["native"] / peak,
        "share_of_peak_xla": reached["xla"] / peak,
        "speedup_vs_xla": seconds["xla"] / seconds["native"],
        "updates_per_second": options.updates / seconds["native"],
        "gflops": reached["native"] / 1e9,
        "peak_gflops": peak / 1e9,
    }
    if options.threads > 1:
        results["threads_speedup"] = seconds["native"] / seconds["threads"]
    report(results, options.json)


main()
