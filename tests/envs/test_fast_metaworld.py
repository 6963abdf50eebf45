"""The faster step of Meta-World gives Meta-World's own numbers, and is left out where that is not known."""

import platform

import gymnasium
import metaworld
import numpy as np
import pytest
from metaworld.policies import ENV_POLICY_MAP

from src.lth import envs
from src.lth.envs import fast_metaworld
from src.lth.envs.fast_metaworld import faster, is_exact

PLAIN = metaworld.env_dict.ALL_V3_ENVIRONMENTS
REACH = PLAIN["reach-v3"]


def as_bytes(value):
    """Return a value's types, shapes and bytes, however nested."""
    if isinstance(value, dict):
        return [(name, as_bytes(part)) for name, part in value.items()]
    if isinstance(value, tuple):
        return [as_bytes(part) for part in value]
    array = np.asarray(value)
    return type(value), array.dtype, array.shape, array.tobytes()


def test_the_installed_metaworld_is_one_that_the_faster_step_was_verified_for():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("SciPy may round otherwise there")
    assert is_exact()
    assert faster(REACH) is not REACH
    assert issubclass(faster(REACH), REACH)
    assert faster(REACH) is faster(REACH)


# Among them: rotations, contacts, two objects, and rewards for a grasp that are the base's or the task's own.
# benchmarks/metaworld_steps.py compares all 50.
@pytest.mark.filterwarnings("ignore:Constant")
@pytest.mark.parametrize("task", ["drawer-close-v3", "pick-place-v3", "stick-pull-v3", "hammer-v3", "assembly-v3"])
def test_every_number_is_metaworlds_to_the_bit(task):
    environments = [kind() for kind in (PLAIN[task], faster(PLAIN[task]))]
    policy, rng = ENV_POLICY_MAP[task](), np.random.default_rng(0)
    for goal in metaworld.MT1(task, seed=1).train_tasks[:2]:
        for env in environments:
            env.set_task(goal)
        first, again = (env.reset() for env in environments)
        assert as_bytes(first) == as_bytes(again)
        observation = first[0]
        for step in range(120):
            action = rng.uniform(-1.0, 1.0, 4)
            if step > 20:  # the scripted policy touches and grasps
                action = np.clip(policy.get_action(observation) + 0.1 * action, -1.0, 1.0)
            results = [env.step(action.astype(np.float32)) for env in environments]
            assert as_bytes(results[0]) == as_bytes(results[1]), step
            observation = results[0][0]


def test_an_episode_ends_and_errors_are_raised_as_metaworld_does():
    env = faster(REACH)()
    with pytest.raises(RuntimeError, match="set_task"):
        env.step(np.zeros(4, np.float32))
    env.set_task(metaworld.MT1("reach-v3", seed=1).train_tasks[0])
    env.reset()
    truncated = [env.step(np.zeros(4, np.float32))[3] for _ in range(500)]
    assert truncated == [False] * 499 + [True]
    with pytest.raises(ValueError, match="reset"):
        env.step(np.zeros(4, np.float32))


def test_a_metaworld_that_was_not_verified_is_used_as_it_is(monkeypatch):
    is_exact.cache_clear()
    try:
        monkeypatch.setitem(fast_metaworld.VERIFIED, fast_metaworld.reward_utils, "0" * 64)
        assert not is_exact()
        assert faster(REACH) is REACH
    finally:
        is_exact.cache_clear()


def test_functions_that_round_otherwise_are_found(monkeypatch):
    original = np.linalg.norm
    is_exact.cache_clear()
    try:
        monkeypatch.setattr(np.linalg, "norm", lambda x, *how, **named: np.nextafter(original(x, *how, **named), 9.0))
        assert not is_exact()
    finally:
        is_exact.cache_clear()


def test_the_check_changes_no_random_state():
    before = np.random.get_state()  # noqa: NPY002  (Meta-World's own generator)
    is_exact.cache_clear()
    is_exact()
    faster(REACH)
    after = np.random.get_state()  # noqa: NPY002
    assert before[2:] == after[2:]
    np.testing.assert_array_equal(before[1], after[1])


# ---------------------------------------------------------------------------------------------------------------------
# Environments side by side.


@pytest.mark.parametrize(("task", "num_envs"), [("CartPole-v1", 3), ("Pendulum-v1", 2), ("Reacher-v5", 1)])
def test_environments_side_by_side_are_gymnasiums_vector(task, num_envs):
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    ours = envs.make_vector(task, 0, num_envs)
    theirs = SyncVectorEnv([lambda: envs.make(task)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    assert envs.spaces_of(ours) == envs.spaces_of(theirs)
    assert as_bytes(ours.reset(seed=7)[0]) == as_bytes(theirs.reset(seed=7)[0])
    rng, ended = np.random.default_rng(0), 0
    for _ in range(210):
        if isinstance(theirs.single_action_space, gymnasium.spaces.Discrete):
            actions = rng.integers(0, 2, num_envs)
        else:
            actions = rng.uniform(-1.0, 1.0, theirs.action_space.shape).astype(np.float32)
        mine, other = ours.step(actions), theirs.step(actions)
        assert as_bytes(mine[:4]) == as_bytes(other[:4])
        assert ("final_obs" in mine[4]) == ("final_obs" in other[4])
        for a, b in zip(mine[4].get("final_obs", ()), other[4].get("final_obs", ()), strict=True):
            ended += b is not None
            assert as_bytes(a) == as_bytes(b)
    assert ended >= num_envs
    ours.close()
    theirs.close()
