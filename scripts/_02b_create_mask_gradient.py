"""Create mask_gradient.pkl for each task, seed and sparsity of a config, by pruning.gradient_method."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, _ = script(__doc__)

from src.lth.scripts import create_gradient_masks

sys.exit(guard(lambda: create_gradient_masks(config)))
