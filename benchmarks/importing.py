"""What importing lth costs, and the kernel's first use.

    python benchmarks/importing.py [--json] [--repeats 9] [--python OTHER/bin/python]

Whole processes, in turns; processor seconds (user and system, with what they start), medians. Each of the imports is a program of
one line, and `python` an empty one. `first_use` is the seconds that `lth.sparse.native.load()` adds to importing it with an empty
cache: it compiles the kernel, unless that came with the wheel. `--python` is an interpreter that has lth installed in another way.
"""

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=9)
parser.add_argument("--python", default="")
options = parser.parse_args()

import os
import resource
import statistics
import subprocess
import sys
import tempfile

ENVIRONMENT = {name: value for name, value in os.environ.items() if not (options.python and name == "PYTHONPATH")}

PROGRAMS = {
    "python": "",
    "import jax": "import jax",
    "import jax, optax": "import jax, optax",
    "import lth": "import lth",
    "lth.prune": "import lth; lth.prune",
    "lth.save_mask": "import lth; lth.save_mask",
    "lth.prune_kernels_by_magnitude": "import lth; lth.prune_kernels_by_magnitude",
    "lth.load": "import lth; lth.load",
    "lth.sparse": "import lth.sparse.native, jax; jax.default_backend()",
    "first_use": "import lth.sparse.native as native, jax; jax.default_backend(); native.load()",
}


def processor_seconds(program: str) -> float:
    """Run a program to its end, with an empty cache of kernels; return the processor time that it took."""
    with tempfile.TemporaryDirectory() as cache:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [options.python or sys.executable, "-c", program]
        subprocess.run(command, check=True, env={**ENVIRONMENT, "LTH_CACHE": cache}, cwd=cache)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
for _ in range(options.repeats):
    for name, program in PROGRAMS.items():
        found[name].append(processor_seconds(program))
medians = {name: statistics.median(seconds) for name, seconds in found.items()}
report({**medians, "first_use": medians["first_use"] - medians["lth.sparse"]}, options.json)
