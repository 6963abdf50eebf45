"""A suite of two classic tasks written in JAX, for tests: `device_suite:suite/pendulum` and `device_suite:suite/cartpole`."""

import jax
import jax.numpy as jnp

from lth.algorithms.architecture import Spaces
from lth.envs.on_device import DeviceEnv
from lth.envs.suites import device_suite
from lth.errors import UnknownTask, nearest


def pendulum():
    """Return Gymnasium's Pendulum-v1, with torques scaled to [-1, 1]. A state is (angle, velocity), (2,) float32."""

    def observe(state):
        return jnp.array([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reset(key):
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([jnp.pi, 1.0])
        return state, observe(state)

    def step(state, action):
        (angle, velocity), torque = state, 2.0 * action[0]
        cost = (jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi) ** 2 + 0.1 * velocity**2 + 0.001 * torque**2
        velocity = jnp.clip(velocity + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        after = jnp.array([angle + velocity * 0.05, velocity])
        return after, observe(after), -cost, False

    return DeviceEnv(Spaces(3, 1), reset, step, 200)


def cartpole():
    """Return Gymnasium's CartPole-v1. A state is (position, velocity, angle, angular velocity), (4,) float32."""

    def reset(key):
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(state, action):
        _, x_velocity, angle, velocity = state
        force = jnp.where(action == 1, 10.0, -10.0)
        temp = (force + 0.05 * velocity**2 * jnp.sin(angle)) / 1.1
        acceleration = (9.8 * jnp.sin(angle) - jnp.cos(angle) * temp) / (
            0.5 * (4.0 / 3.0 - 0.1 * jnp.cos(angle) ** 2 / 1.1)
        )
        x_acceleration = temp - 0.05 * acceleration * jnp.cos(angle) / 1.1
        after = state + 0.02 * jnp.array([x_velocity, x_acceleration, velocity, acceleration])
        terminated = (jnp.abs(after[0]) > 2.4) | (jnp.abs(after[2]) > 12 * 2 * jnp.pi / 360)
        return after, after, 1.0, terminated

    return DeviceEnv(Spaces(4, 2, discrete=True), reset, step, 500)


TASKS = {"pendulum": pendulum, "cartpole": cartpole}
OBSERVATIONS = {
    "pendulum": ["cos(angle)", "sin(angle)", "angular velocity"],
    "cartpole": ["position", "velocity", "angle", "angular velocity"],
}


def on_device(task):
    """Return a task by name."""
    if task not in TASKS:
        raise UnknownTask(f"unknown task {task!r}{nearest(task, TASKS) or '.'} There are {', '.join(TASKS)}.")
    return TASKS[task]()


suite = device_suite(on_device, lambda: list(TASKS), lambda task: OBSERVATIONS.get(task, []))
