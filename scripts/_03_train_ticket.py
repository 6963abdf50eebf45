"""Train the tickets of a config with mask.pkl, or with the mask given by --mask."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, options = script(__doc__, {"mask": "mask.pkl (the default), mask_gradient.pkl, or the path of any mask file"})

from src.lth.scripts import train_tickets

sys.exit(guard(lambda: train_tickets(config, options["mask"])))
