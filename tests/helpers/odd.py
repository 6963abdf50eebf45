"""Environments that misbehave, registered as `helpers.odd:<Name>-v0`."""

import os
import sys
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from lth.envs.suites import Suite


class Good(gymnasium.Env):
    """Episodes of 20 steps; asserts that actions lie in bounds that float32 rounding oversteps; takes no render_mode."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(np.float32(-0.3), np.float32(1.1), (2,), np.float32)
    steps = 0

    def __init__(self):
        self.t = 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.check(action)
        type(self).steps += 1
        self.t += 1
        self.odd(type(self).steps)
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, self.reward(action), False, self.t >= 20, {"is_success": self.t > 10}

    def check(self, action):
        assert self.action_space.contains(action), action

    def reward(self, action):
        return float(-np.sum(action**2))

    def odd(self, steps):
        """What goes wrong, at so many steps of the process."""


class Unchecked(Good):
    """Takes any action, such as NaN."""

    def check(self, action):
        pass


class ArrayReward(Good):
    def reward(self, action):
        return np.array([1.0])


class NanReward(Good):
    def reward(self, action):
        return float("nan")


class LateInfiniteReward(Good):
    def reward(self, action):
        return float("inf") if self.steps > 190 and self.t == 20 else -1.0


class UpperEnd(Good):
    def reward(self, action):
        if action[1] > 1.0:
            raise RuntimeError("[/x] \x1b[31mno\udc80")
        return 0.0


class FourValues(Good):
    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, {}


class WrongShape(Good):
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}


class NoInfo(Good):
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32)


class Dies(Good):
    def reset(self, seed=None, options=None):
        os._exit(3)


class DiesLater(Good):
    mine = 0  # steps, of this environment alone

    def odd(self, steps):
        self.mine += 1
        if self.mine == 45:
            os._exit(3)


class RaisesAtReset(Good):
    def reset(self, seed=None, options=None):
        raise RuntimeError("no start")


class RaisesLater(Good):
    mine = 0  # steps, of this environment alone

    def odd(self, steps):
        self.mine += 1
        if self.mine == 45:
            raise ValueError("stuck")


class Constructor(Good):
    def __init__(self):
        raise KeyError("nothing")


class LargestFloats(Good):
    action_space = Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,), np.float32)


class LargestDoubles(Good):
    observation_space = Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (2,), np.float64)


class WordSuccess(Good):
    def step(self, action):
        return *super().step(action)[:4], {"success": "yes"}


class Hangs(Good):
    def odd(self, steps):
        time.sleep(1e6)


class HangsLater(Good):
    def odd(self, steps):
        if steps > 160:
            time.sleep(1e6)


class Interrupts(Good):
    def odd(self, steps):
        if steps > 160:
            raise KeyboardInterrupt


class ForksAndDies(Good):
    def odd(self, steps):
        if steps == 150 and os.fork() == 0:
            time.sleep(1e6)
        if steps > 160:
            os._exit(7)


class LeavesAChild(Good):
    def odd(self, steps):
        if steps == 150:
            import subprocess

            child = subprocess.Popen(["sleep", "100000"])
            print("child", child.pid, flush=True)


class ReadsInput(Good):
    def odd(self, steps):
        if steps == 160:
            assert sys.stdin.read() == ""
            raise RuntimeError("the input is empty")


class Overflows(Good):
    observation_space = Box(-np.inf, np.inf, (2,), np.float32)

    def step(self, action):
        observation, *rest = super().step(action)
        return (np.float32(1e30) * observation if self.steps > 160 else observation), *rest


for kind in list(globals().values()):
    if isinstance(kind, type) and issubclass(kind, Good):
        gymnasium.register(f"{kind.__name__}-v0", kind)
SUITE = Suite(lambda *_: [][0])
gymnasium.register("Limited-v0", Good, max_episode_steps=15)
