"""`lth eval`: a finished run's agent on fresh episodes, and on film."""

import io
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

from .errors import InputError

FORMATS = (".gif", ".mp4")


def check_video_file(path: Path) -> None:
    """Raise InputError unless a film can be written there."""
    if path.suffix not in FORMATS:
        raise InputError(f"--video {path}: films are written as {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"--video {path}: there is no folder {path.parent}")


def run_threads(run: Path) -> int:
    """Read `training.threads` of a run without loading JAX; 1 if it cannot be read."""
    try:
        if not (run / "spec.json").is_file():
            return 1
        spec = json.loads((run / "spec.json").read_text())
        return max(int(spec.get("dense", spec)["training"]["threads"]), 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 1


def evaluate_run(run: Path, episodes: int) -> str:
    """Evaluate a run and say what came out.

    Raises:
        InputError: there is no such run.
    """
    from . import envs
    from .algorithms.acting import policy_of
    from .experiment import store
    from .training import evaluate

    spec = store.dense_spec_of(run)
    agent = store.load(run).agent
    policy = policy_of(agent)
    env = envs.make(spec.task, spec.seed, envs.EVALUATE)
    if envs.spaces_of(env) != agent.algorithm.spaces:
        raise InputError(f"{run}: its agent takes other observations and actions than {spec.task} has here")
    result = evaluate(policy, env, episodes)
    spread = f" ± {statistics.stdev(result.returns):.1f} (mean ± sd over episodes)" if episodes > 1 else ""
    text = f"{spec.task}, {episodes} episode{'s' if episodes > 1 else ''}: return {result.return_mean:.1f}{spread}"
    if result.success_rate is not None:
        text += f", success {result.success_rate:.2f}"
    return text


def film_run(run: Path, path: Path) -> None:
    """Write a run's first evaluation episode as a film.

    Raises:
        InputError: there is no such run, or its task cannot be drawn on this machine.
    """
    import os

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame is to look for no screen
    from . import envs
    from .algorithms.acting import policy_of
    from .experiment import store
    from .training import evaluate

    spec = store.dense_spec_of(run)
    policy = policy_of(store.load(run).agent)
    frames: list[Any] = []
    try:
        env = envs.make(spec.task, spec.seed, envs.EVALUATE, render=True)
        evaluate(policy, env, 1, lambda: frames.append(env.render()))
    except InputError:
        raise
    except Exception as error:  # every renderer fails in a way of its own
        raise InputError(
            f"{spec.task} cannot be drawn here ({type(error).__name__}: {error}). Classic-control tasks need pygame "
            "(pip install -e '.[video]'); MuJoCo needs OpenGL: without a screen, MUJOCO_GL=egl in the environment."
        ) from None
    per_second = int(env.metadata.get("render_fps", 30))
    _write_film(path, frames, per_second)


def _write_film(path: Path, frames: list[Any], per_second: int) -> None:
    from .files import write_whole

    if path.suffix == ".gif":
        from PIL import Image

        # GIF knows hundredths of a second; 50 pictures a second are as fast as players go.
        step = max(1, round(per_second / 25))
        pictures = [Image.fromarray(frame) for frame in frames[::step]]
        for picture in pictures:
            picture.thumbnail((320, 320))
        data = io.BytesIO()
        duration = max(20, round(1000 * step / per_second))
        pictures[0].save(data, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
        write_whole(path, data.getvalue(), checksum=False)
        return
    try:
        import imageio.v3 as imageio

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)  # ffmpeg runs in a process of its own
            data_mp4 = imageio.imwrite("<bytes>", frames, extension=".mp4", fps=per_second, macro_block_size=1)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"an .mp4 needs ffmpeg: pip install -e '.[video]', or film a .gif ({error})") from None
    write_whole(path, data_mp4, checksum=False)
