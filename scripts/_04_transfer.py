"""Train tickets on one task with masks made on another."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, options = script(
    __doc__,
    {
        "source": "the task the masks were made on (default: the config's first task)",
        "target": "the task the tickets train on (default: the config's other tasks)",
        "mask": "mask.pkl (the default) or mask_gradient.pkl",
    },
)

from src.lth.scripts import transfer_tickets

sys.exit(guard(lambda: transfer_tickets(config, options["source"], options["target"], options["mask"])))
