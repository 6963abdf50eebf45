"""Create the masks of a config by pruning.gradient_method, as mask_gradient.pkl, one for each task, seed and sparsity."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, _ = script(__doc__)

from src.lth.scripts import create_gradient_masks

sys.exit(guard(lambda: create_gradient_masks(config)))
