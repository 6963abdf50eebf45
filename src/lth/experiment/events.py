"""TensorBoard event files, for whoever watches training there; the metrics themselves are in metrics.csv."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError


def event_log(folder: Path) -> Callable[[int, dict[str, float]], None]:
    """Return what writes metrics to an event file in `folder`.

    Raises:
        InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(f"tensorboard=true needs tensorboardX: pip install -e '.[tensorboard]' ({error})") from None
    writer = SummaryWriter(str(folder))

    def write(env_steps: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, env_steps)
        writer.flush()

    return write
