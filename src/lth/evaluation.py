"""`lth eval`: evaluate a finished run, and record videos."""

import contextlib
import io
import itertools
import json
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, TrainingError

FORMATS = (".gif", ".mp4")
PANEL = 320
"""The maximum width and height in pixels of a run in a GIF or in a side-by-side video."""


def check_video_file(path: Path) -> None:
    """Raise InputError unless the video format is supported and the folder exists."""
    if path.suffix not in FORMATS:
        raise InputError(f"--video '{path}': unsupported format; use {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--video '{path}': the folder '{path.parent}' does not exist")


def run_threads(run: Path) -> int:
    """Read `training.threads` of a run without loading JAX; 1 if it cannot be read."""
    try:
        if not (run / "spec.json").is_file():
            return 1
        spec = json.loads((run / "spec.json").read_text())
        return max(int(spec.get("dense", spec)["training"]["threads"]), 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 1


def evaluate_run(run: Path, episodes: int | None = None) -> str:
    """Evaluate a run and return a one-line summary.

    Raises:
        InputError: the run does not exist.
        TrainingError: the environment raised an exception.
    """
    from . import envs
    from .algorithms.acting import policy_of
    from .experiment import records, store
    from .training import evaluate

    spec = records.spec_of(run).dense
    agent = store.load(run).agent
    policy = policy_of(agent)
    episodes = episodes or spec.evaluation.last_episodes
    with contextlib.closing(envs.make(spec.task, spec.seed, envs.EVALUATE)) as env:
        if envs.spaces_of(env) != agent.algorithm.spaces:
            raise InputError(
                f"'{run}': the observation or action space of its agent differs from {spec.task} as installed here"
            )
        result = evaluate(policy, env, episodes)
    spread = f" ± {statistics.stdev(result.returns):.1f} (mean ± sd over episodes)" if episodes > 1 else ""
    text = f"{spec.task}, {episodes} episode{'s' if episodes > 1 else ''}: return {result.return_mean:.1f}{spread}"
    if result.success_rate is not None:
        text += f", success {result.success_rate:.2f}"
    return text


def film_runs(runs: Sequence[Path], path: Path) -> None:
    """Record the first evaluation episode of each run as a video; several runs are shown side by side under their names.

    Raises:
        InputError: a run does not exist, or its task cannot be rendered on this machine.
        TrainingError: an environment raised an exception.
    """
    from .experiment import records

    specs = [records.spec_of(run) for run in runs]
    size = None if len(runs) == 1 and path.suffix == ".mp4" else PANEL
    filmed = [_filmed(run, path.suffix == ".gif", size) for run in runs]
    per_second = filmed[0][1]
    if len(runs) == 1:
        _write_film(path, filmed[0][0], per_second)
        return
    if len({rate for _, rate in filmed}) > 1:
        raise InputError(
            "--video: tasks with different frame rates cannot be shown side by side; record one video per task"
        )
    alike = len({(spec.task, spec.seed) for spec in specs}) == 1
    names = [" ".join(spec.words()) or spec.role if alike else spec.title() for spec in specs]
    names = [f"{name} (control)" if spec.role == "control" else name for name, spec in zip(names, specs, strict=True)]
    _write_film(path, _side_by_side([frames for frames, _ in filmed], names), per_second)


def _filmed(run: Path, gif: bool, size: int | None) -> tuple[list[Any], float]:
    """Return the frames of a run's first evaluation episode, at most `size` pixels wide and high, and the frame rate."""
    import os

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
    from . import envs
    from .algorithms.acting import policy_of
    from .experiment import records, store
    from .training import evaluate

    spec = records.spec_of(run).dense
    policy = policy_of(store.load(run).agent)
    frames: list[Any] = []
    try:
        with contextlib.closing(envs.make(spec.task, spec.seed, envs.EVALUATE, render=True)) as env:
            per_second = float(env.metadata.get("render_fps", 30))
            # GIF players handle 25 frames per second.
            step = max(1, round(per_second / 25)) if gif else 1
            steps = itertools.count()

            def take() -> None:
                if next(steps) % step == 0:
                    frames.append(_smaller(env.render(), size))

            evaluate(policy, env, 1, take)
    except (InputError, TrainingError):
        raise
    except Exception as error:  # every renderer raises its own exceptions
        raise InputError(
            f"{spec.task} cannot be rendered here ({type(error).__name__}: {error}). Classic-control tasks need pygame "
            "(pip install -e '.[video]'); MuJoCo needs OpenGL: without a screen, set MUJOCO_GL=egl."
        ) from None
    return frames, per_second / step


def _smaller(frame: Any, size: int | None) -> Any:
    from PIL import Image

    if size is None or max(frame.shape[:2]) <= size:
        return frame
    picture = Image.fromarray(frame)
    picture.thumbnail((size, size))
    return picture


def _side_by_side(films: Sequence[Sequence[Any]], names: Sequence[str]) -> list[Any]:
    """Combine videos side by side with a name above each; shorter videos hold their last frame."""
    import numpy as np
    from PIL import Image, ImageDraw

    pictures = [[f if isinstance(f, Image.Image) else Image.fromarray(f) for f in film] for film in films]
    widths, heights = zip(*(film[0].size for film in pictures), strict=True)
    head, font = 24, 14
    frames = []
    for i in range(max(map(len, pictures))):
        sheet = Image.new("RGB", (sum(widths), max(heights) + head), "white")
        draw, at = ImageDraw.Draw(sheet), 0
        for film, name, width in zip(pictures, names, widths, strict=True):
            draw.text((at + width // 2, head // 2), name, fill="black", anchor="mm", font_size=font)
            sheet.paste(film[min(i, len(film) - 1)], (at, head))
            at += width
        frames.append(np.asarray(sheet))
    return frames


def _write_film(path: Path, frames: Sequence[Any], per_second: float) -> None:
    import numpy as np
    from PIL import Image

    from .files import write_whole

    if path.suffix == ".gif":
        pictures = [frame if isinstance(frame, Image.Image) else Image.fromarray(frame) for frame in frames]
        data = io.BytesIO()
        # GIF durations are hundredths of a second, and Pillow drops the rest; players show at most 50 frames per second.
        duration = max(20, 10 * round(100 / per_second))
        pictures[0].save(
            data, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True
        )
        write_whole(path, data.getvalue(), checksum=False)
        return
    try:
        import imageio.v3 as imageio

        height, width = np.shape(frames[0])[:2]
        even = ((0, height % 2), (0, width % 2), (0, 0))  # H.264 refuses odd sizes
        arrays = [np.pad(np.asarray(frame), even, mode="edge") for frame in frames]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)  # ffmpeg runs in a subprocess
            data_mp4 = imageio.imwrite("<bytes>", arrays, extension=".mp4", fps=per_second, macro_block_size=1)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"an .mp4 needs ffmpeg: pip install -e '.[video]', or write a .gif ({error})") from None
    write_whole(path, data_mp4, checksum=False)
