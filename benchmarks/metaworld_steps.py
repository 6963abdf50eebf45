"""Compare lth's Meta-World step with the original: bit-identical results, and time.

    python benchmarks/metaworld_steps.py [--json] [--tasks TASK ...] [--steps 1000] [--repeats 9]

Both classes step each task in parallel: `--steps` random actions, then as many noisy actions of Meta-World's scripted policy,
which touches, grasps and succeeds. Every observation, reward and entry of `info`, and the first observation of every episode, is
compared by bytes and type. `tasks_equal` counts the tasks without a difference; the exit status is 1 if any task differs.

`speedup` is the geometric mean over tasks of the original step's time over the faster step's, in thread CPU time; each is the
median of alternating blocks of 50 steps. `simulator_share` is the share of a faster step that is spent in MuJoCo.
`vector_speedup` is the speedup of the step that training calls, including wrappers, over the original class in Gymnasium's
SyncVectorEnv.
"""

import math
import statistics
import sys
import time
import warnings

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--tasks", nargs="+", metavar="TASK")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

import metaworld
import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from src.lth import envs
from src.lth.envs import fast_metaworld
from src.lth.envs.metaworld import task_names

BLOCK = 50


def pair(task: str) -> tuple[list, list]:
    """Return the plain and the faster environment of a task, and the goals."""
    plain = metaworld.env_dict.ALL_V3_ENVIRONMENTS[task]
    return [kind() for kind in (plain, fast_metaworld.faster(plain))], metaworld.MT1(task, seed=0).train_tasks


def reset(environments: list, goal) -> list[np.ndarray]:
    """Start an episode on the same goal in all environments."""
    for env in environments:
        env.set_task(goal)
    return [env.reset()[0] for env in environments]


def same(a, b) -> bool:
    """Return whether two values have the same type and bytes, however nested."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def differences(task: str) -> tuple[int, int]:
    """Step both environments of a task; returns the numbers of different and of compared steps."""
    environments, goals = pair(task)
    rng, differing, steps = np.random.default_rng(0), 0, 0
    for scripted in (False, True):
        policy = ENV_POLICY_MAP[task]()
        done = 0
        while done < options.steps:
            first = reset(environments, goals[int(rng.integers(len(goals)))])
            differing += not same(*first)
            observation = first[0]
            for _ in range(min(metaworld.SawyerXYZEnv.max_path_length, options.steps - done)):
                action = rng.uniform(-1.0, 1.0, 4)
                if scripted:
                    action = np.clip(policy.get_action(observation) + 0.1 * action, -1.0, 1.0)
                results = [env.step(action.astype(np.float32)) for env in environments]
                differing += not same(*results)
                observation = results[0][0]
                done += 1
        steps += done
    return differing, steps


def timed(call, actions) -> float:
    """Return the microseconds of processor time that one call takes."""
    started = time.thread_time()
    for action in actions:
        call(action)
    return 1e6 * (time.thread_time() - started) / len(actions)


def speed(task: str) -> tuple[float, float, float]:
    """Return the microseconds of a plain and a faster step of a task, and of its calls of MuJoCo."""
    environments, goals = pair(task)
    faster = environments[1]

    def simulator(action) -> None:
        faster.data.ctrl[:] = action[-1], -action[-1]
        mujoco.mj_step(faster.model, faster.data, nstep=faster.frame_skip)
        mujoco.mj_rnePostConstraint(faster.model, faster.data)
        mujoco.mj_forward(faster.model, faster.data)

    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (BLOCK, 4)).astype(np.float32)
    found = []
    for _ in range(options.repeats):
        reset(environments, goals[0])
        sides = [timed(env.step, actions) for env in environments]
        reset([faster], goals[0])
        found.append([*sides, timed(simulator, actions)])
    return tuple(statistics.median(side) for side in zip(*found, strict=True))


def vector_speedup(task: str) -> float:
    """Return the speedup of a step of the training environments over Gymnasium's SyncVectorEnv with the original class."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    mine = envs.make_vector(task, 0, 1)
    faster, envs.metaworld.faster = envs.metaworld.faster, lambda environment: environment
    try:
        plain = SyncVectorEnv([lambda: envs.make(task)], autoreset_mode=AutoresetMode.SAME_STEP)
    finally:
        envs.metaworld.faster = faster
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (BLOCK, 1, 4)).astype(np.float32)
    found = []
    for _ in range(options.repeats):
        for side in (plain, mine):
            side.reset(seed=0)
        found.append([timed(side.step, actions) for side in (plain, mine)])
    before, after = (statistics.median(side) for side in zip(*found, strict=True))
    return before / after


def main() -> None:
    warnings.filterwarnings("ignore", "Constant")  # of the scripted policies' actions, which are clipped
    tasks = options.tasks or task_names()
    equal, compared, times = 0, 0, {}
    for task in tasks:
        differing, steps = differences(task)
        times[task] = speed(task)
        equal += not differing
        compared += steps
        if not options.json:
            plain, faster, simulator = times[task]
            print(f"{task:30} {plain:5.0f} {faster:5.0f} {plain / faster:5.2f}  MuJoCo {simulator:4.0f}", end="")
            print(f"  {differing} of {steps} steps differ" if differing else "", flush=True)
    ratios = {task: plain / faster for task, (plain, faster, _) in times.items()}
    results = {
        "is_exact": fast_metaworld.is_exact(),
        "tasks": len(tasks),
        "tasks_equal": equal,
        "steps_compared": compared,
        "speedup": math.exp(statistics.mean(map(math.log, ratios.values()))),
        "speedup_of_sums": sum(plain for plain, _, _ in times.values())
        / sum(faster for _, faster, _ in times.values()),
        "speedup_least": min(ratios.values()),
        "tasks_at_least_1.4": sum(ratio >= 1.4 for ratio in ratios.values()),
        "simulator_share": statistics.median(simulator / faster for _, faster, simulator in times.values()),
        "vector_speedup": vector_speedup(tasks[0] if options.tasks else "drawer-close-v3"),
    }
    report(results, options.json)
    sys.exit(equal < len(tasks))


main()
