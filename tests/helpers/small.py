"""The checkout, and a whole experiment in a few seconds."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SMALL = {
    "tasks": ["Pendulum-v1"],
    "seeds": [0],
    "training": {"env_steps": 600, "start_steps": 100, "segment_steps": 200, "batch_size": 32},
    "sac": {"actor_hidden": [16, 16], "critic_hidden": [16, 16], "max_grad_norm": 1.0},
    "evaluation": {"every": 400, "episodes": 1, "last_episodes": 2},
    "pruning": {"sparsity": 0.8, "num_gradient_batches": 8, "gradient_batch_size": 32},
    "report": {"random_episodes": 5},
}
"""With clipping, so that what clipping sees is tested too."""
