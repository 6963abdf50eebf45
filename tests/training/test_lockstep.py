"""Runs that train in one program: each learns what it learns alone, and nothing of the others' reaches it."""

import functools
import multiprocessing
import os
import re
import traceback

import jax
import numpy as np
import pytest
from helpers.trees import on_host

from lth.algorithms.acting import policy_of
from lth.algorithms.architecture import Spaces, config_class
from lth.algorithms.base import Agent
from lth.algorithms.randomness import DeviceGenerator
from lth.algorithms.tickets import make_ticket, masks_of
from lth.config import TrainingConfig, replay_capacity
from lth.envs import EVALUATE, make, pool
from lth.errors import InputError, TrainingError
from lth.pruning.prune import prune
from lth.pruning.schedules import prune_at, rigl, sparse_evolution
from lth.replay import init_replay
from lth.training import Job, evaluate, train
from lth.training.lockstep import Lockstep, agents_in_call, batch_key
from lth.training.on_device import DeviceLockstep, evaluate_on_device

CONTINUOUS = {"actor_hidden": (16, 16), "critic_hidden": (16, 16)}
AGENTS = {"sac": CONTINUOUS, "td3": CONTINUOUS, "dqn": {"q_hidden": (16, 16), "target_every": 7}}
HOST = {"sac": "Pendulum-v1", "td3": "Pendulum-v1", "dqn": "CartPole-v1"}
DEVICE = {
    "sac": "device_suite:suite/pendulum",
    "td3": "device_suite:suite/pendulum",
    "dqn": "device_suite:suite/cartpole",
}
TRAINING = {"env_steps": 60, "start_steps": 40, "segment_steps": 30, "batch_size": 16}
"""Two segments; 20 updates in the second."""
SPARSITY = (0.0, 0.4, 0.7)


@pytest.fixture(autouse=True)
def one_core():
    """Pools of one process, because starting a process takes longer than anything that is tested here."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)
    assert multiprocessing.active_children() == []


@functools.cache
def algorithm_of(name, *settings):
    spaces = Spaces(4, 2, discrete=True) if name == "dqn" else Spaces(3, 1)
    return config_class(name)(**{**AGENTS[name], **dict(settings)}).build(spaces)


@functools.cache
def start_of(algorithm, seed, sparsity=0.0, schedule=None):
    """Return the state of an untrained agent: masked at random, and with a schedule whose changes fall into 20 updates."""
    state = algorithm.init(jax.random.key(seed))
    masks = {n: prune(p, sparsity, "random", key=jax.random.key(seed)) for n, p in state.params.items()}
    state = make_ticket(state, masks)
    if schedule is None:
        return state
    opts = dict(state.opts)
    for i, (n, params) in enumerate(state.params.items()):
        if schedule == "gradual":
            found = prune_at(params, 0.8, (4, 8), "cubic")
        elif schedule == "set":
            found = sparse_evolution(params, 4, 8, jax.random.key(10 * seed + i), 0.3)
        else:
            found = rigl(params, 4, 8, 0.3)
        opts[n] = opts[n]._replace(schedule=found)
    return state._replace(opts=opts)


def job_of(name, seed, task=None, state=None, agent=(), **settings):
    """Return an agent to train for two short segments."""
    algorithm, training = algorithm_of(name, *agent), TrainingConfig(**{**TRAINING, **settings})
    spaces = algorithm.spaces
    replay = init_replay(replay_capacity(algorithm.config, training), spaces.observation_dim, spaces.action_width)
    state = start_of(algorithm, seed, SPARSITY[seed % 3]) if state is None else state
    return Job(algorithm, training, task or HOST[name], seed, state, replay, training.env_steps)


def trained(jobs, size=4, together=2):
    """Train jobs in one batch to the end; returns of each its last segment's state, buffer and metrics, or its error."""
    on_device = jobs[0].task.startswith("device_suite:")
    lockstep = DeviceLockstep(jobs, size) if on_device else Lockstep(jobs, size, together)
    found = {}
    try:
        for _ in range(0, jobs[0].until, jobs[0].training.segment_steps):
            for i, segment in lockstep.advance():
                error = isinstance(segment, BaseException)
                found[i] = segment if error else on_host((segment.state, segment.replay, segment.metrics))
            if all(isinstance(found[i], BaseException) for i in range(len(jobs))):
                break
    finally:
        lockstep.close()
    assert sorted(found) == list(range(len(jobs)))
    return [found[i] for i in range(len(jobs))]


def same_bytes(one, other):
    """Return whether two trees have the same structure, and leaves of the same bytes."""
    a, b = (jax.tree.flatten(data_of(tree)) for tree in (one, other))
    return a[1] == b[1] and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a[0], b[0], strict=True)
    )


def data_of(found):
    """Return what a job learned, without its key."""
    state, replay, metrics = found
    return state._replace(key=None), replay, metrics


def check_alike(found, job):
    """Check that a run of a batch is that of `train`, up to the rounding of 20 updates."""
    *_, segment = train(*job)
    alone = on_host((segment.state, segment.replay))
    for (path, a), b in zip(
        jax.tree.leaves_with_path(data_of((*alone, {}))), jax.tree.leaves(data_of((*found[:2], {}))), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    assert int(found[0].env_steps) == 60
    assert int(found[0].grad_steps) == 20
    for network, mask in masks_of(found[0]).items():
        for kept, theirs in zip(
            *(jax.tree.leaves(on_host(m)) for m in (mask, masks_of(alone[0])[network])), strict=True
        ):
            assert (kept == theirs).all()
        trees = [found[0].params[network], *([found[0].targets[network]] if network in found[0].targets else [])]
        for tree in trees:
            for kept, leaf in zip(jax.tree.leaves(on_host(mask)), jax.tree.leaves(tree), strict=True):
                assert (leaf[kept == 0] == 0.0).all()


@pytest.fixture(scope="module")
def batches():
    """For each algorithm three jobs of different seeds and sparsities, and what they learned in one batch."""
    made = {}

    def of(name, tasks=HOST):
        if (name, tasks is HOST) not in made:
            jobs = [job_of(name, seed, tasks[name]) for seed in range(3)]
            made[name, tasks is HOST] = jobs, trained(jobs)
        return made[name, tasks is HOST]

    return of


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_of_a_batch_learns_what_it_learns_alone(name, batches):
    for job, found in zip(*batches(name), strict=True):
        check_alike(found, job)


@pytest.mark.parametrize("name", AGENTS)
def test_agents_that_are_updated_one_by_one_learn_the_same_in_a_batch_of_any_size(name):
    jobs = [job_of(name, seed) for seed in range(3)]
    found = trained(jobs, 8, together=agents_in_call(8, "cpu"))
    check_alike(found[2], jobs[2])
    assert same_bytes(found[2], *trained(jobs[2:], 1, together=agents_in_call(1, "cpu")))


def test_half_of_a_batch_is_updated_in_one_call_except_on_a_cpu():
    assert [agents_in_call(size, "gpu") for size in (1, 2, 7, 256)] == [1, 1, 4, 128]
    assert [agents_in_call(size, "cpu") for size in (1, 2, 7, 256)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("name", "schedule"), [("td3", "gradual"), ("dqn", "set"), ("dqn", "rigl")])
def test_masks_change_in_a_batch_as_they_do_alone(name, schedule):
    agent = tuple((f"{network}_hidden", (12,)) for network in config_class(name).NETWORKS)
    sparsity = 0.0 if schedule == "gradual" else 0.5
    states = [start_of(algorithm_of(name, *agent), seed, sparsity, schedule) for seed in range(2)]
    jobs = [job_of(name, seed, state=state, agent=agent) for seed, state in enumerate(states)]
    for job, found in zip(jobs, trained(jobs), strict=True):
        check_alike(found, job)
        before, after = (jax.tree.leaves(on_host(masks_of(state))) for state in (job.state, found[0]))
        assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("tasks", [HOST, DEVICE], ids=["host", "device"])
def test_a_run_has_the_same_bytes_whoever_shares_its_batch(name, tasks, batches):
    jobs, three = batches(name, tasks)
    # The same job alone; and in other places, among them one of the other half.
    (alone,) = trained(jobs[1:2])
    assert same_bytes(alone, three[1])
    moved = trained([jobs[2], job_of(name, 7, tasks[name]), jobs[0], jobs[1]])
    for i, j in ((2, 0), (3, 1), (0, 2)):
        assert same_bytes(moved[i], three[j])
    assert not same_bytes(moved[1], three[1])


@pytest.mark.parametrize("tasks", [HOST, DEVICE], ids=["host", "device"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"updates_per_step": 0.5}, id="half", marks=pytest.mark.full),
        pytest.param({"updates_per_step": 2.0, "num_envs": 2}, id="double"),
    ],
)
def test_other_ratios_several_environments_and_a_full_buffer(tasks, settings):
    # TD3 updates its policy at every other update, which may fall between two steps.
    jobs = [job_of("td3", seed, tasks["td3"], agent=(("buffer_size", 26),), **settings) for seed in range(2)]
    both, (alone,) = trained(jobs), trained(jobs[1:])
    assert same_bytes(alone, both[1])
    state, replay, _ = alone
    assert int(replay.size) == 26
    assert int(state.grad_steps) == {0.5: 10, 2.0: 40}[settings["updates_per_step"]]
    assert len(np.unique(replay.rows, axis=0)) == 26
    if tasks is HOST:
        *_, segment = train(*jobs[1])
        np.testing.assert_allclose(replay.rows, segment.replay.rows, rtol=1e-3, atol=1e-4)
        assert int(segment.state.grad_steps) == int(state.grad_steps)


ODD = "helpers.odd:{}-v0"
"""Tasks of equal spaces, so that good and bad ones share a batch."""


def odd_job(seed, task="Good"):
    algorithm = config_class("sac")(**CONTINUOUS).build(Spaces(2, 2))
    training = TrainingConfig(**{**TRAINING, "start_steps": 20})
    state = start_of(algorithm, 0)._replace(key=None)
    return Job(algorithm, training, ODD.format(task), seed, state, init_replay(60, 2, 2), 60)


def broken(job):
    """Give a job's policy weights that are not numbers."""
    policy = job.algorithm.policy
    weights = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), job.state.params[policy])
    return job._replace(state=job.state._replace(params={**job.state.params, policy: weights}))


DIVERGED = r"the policy's actions became NaN or infinite by environment step \d+: learning diverged. Lower sac"


def test_a_failed_run_ends_with_its_error_and_the_others_go_on_to_the_same_bytes():
    bad = {
        "Constructor": "the task 'helpers.odd:Constructor-v0' cannot be created: KeyError: 'nothing'",
        "RaisesAtReset": "the environment raised RuntimeError at step 0: no start",
        "RaisesLater": "the environment raised ValueError at step 44: stuck",
        "NanReward": "the environment returned NaN or infinite observations or rewards at environment step 0",
    }
    good = [odd_job(seed) for seed in range(2)]
    jobs = [good[0], *(odd_job(5, task) for task in bad), broken(odd_job(6, "Unchecked")), good[1]]
    found = trained(jobs, size=8)
    for error, says in zip(found[1:6], [*bad.values(), DIVERGED], strict=True):
        assert isinstance(error, InputError if "created" in says else TrainingError)
        assert re.match(says, str(error)), error
    assert 'raise ValueError("stuck")' in "".join(traceback.format_exception(found[3]))
    for i, without in zip((0, 6), trained(good, size=8), strict=True):
        assert same_bytes(found[i], without)


def test_a_batch_of_failures_ends():
    found = trained([odd_job(seed, task) for seed, task in enumerate(("RaisesLater", "RaisesAtReset", "RaisesLater"))])
    assert ["stuck" in str(error) for error in found] == [True, False, True]


def test_a_process_that_ends_takes_only_its_own_runs_with_it(monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 2)
    jobs = [odd_job(0), odd_job(1, "DiesLater"), odd_job(2), odd_job(3)]
    found = trained(jobs, size=8)
    for error in found[1::2]:
        assert str(error) == (
            "the environment raised ChildProcessError at step 44: the process of the environment ended with status 3"
        )
    for i, alone in zip((0, 2), trained(jobs[::2], size=8), strict=True):
        assert same_bytes(found[i], alone)


def test_on_the_device_a_failed_run_leaves_the_others_as_they_are(batches):
    jobs, three = batches("sac", DEVICE)
    bad, found = trained([broken(jobs[0]), jobs[1]])
    assert isinstance(bad, TrainingError)
    assert re.match(DIVERGED, str(bad))
    assert same_bytes(found, three[1])


def test_only_jobs_whose_program_and_steps_agree_share_a_batch():
    one = job_of("sac", 0)
    assert batch_key(one) == batch_key(job_of("sac", 1)) == batch_key(one._replace(task="helpers.odd:Good-v0"))
    for other in (
        job_of("td3", 0),
        job_of("sac", 0, num_envs=2),
        one._replace(until=30),
        one._replace(state=one.state._replace(env_steps=np.int32(30))),
        one._replace(task=DEVICE["sac"]),
        job_of("sac", 0, state=start_of(one.algorithm, 0, 0.0, "rigl")),
    ):
        assert batch_key(one) != batch_key(other)


@pytest.mark.parametrize("name", AGENTS)
def test_evaluation_on_the_device_is_that_of_the_host(name, batches):
    jobs, found = batches(name, DEVICE)
    algorithm, task = jobs[0].algorithm, DEVICE[name]
    states = [state for state, _, _ in found]
    together = evaluate_on_device(algorithm, task, states, 3, 4)
    env = make(task, 0, EVALUATE)
    for state, evaluation in zip(states, together, strict=True):
        one_by_one = evaluate(policy_of(Agent(algorithm.config, state)), env, 3)
        np.testing.assert_allclose(evaluation.returns, one_by_one.returns, rtol=1e-4)
        assert evaluation.successes is None
    (alone,) = evaluate_on_device(algorithm, task, states[1:2], 3, 4)
    assert alone == together[1]
    assert alone.returns != together[0].returns
    bad = broken(jobs[0])._replace(algorithm=algorithm).state
    if name != "dqn":  # the largest of values that are not numbers is an action too
        wrong, right = evaluate_on_device(algorithm, task, [bad, states[1]], 3, 4)
        assert isinstance(wrong, TrainingError)
        assert right == together[1]


def test_dqn_learns_on_the_device():
    """On CartPole a random policy keeps the pole up for about 22 steps."""
    agent = (("q_hidden", (32, 32)), ("target_every", 200), ("q_learning_rate", 1e-3))
    training = {"env_steps": 3000, "start_steps": 500, "segment_steps": 1000, "batch_size": 32}
    jobs = [job_of("dqn", 3 * seed, DEVICE["dqn"], agent=agent, **training) for seed in range(4)]
    lockstep = DeviceLockstep(jobs, 4)
    returns = [np.mean([segment.metrics["train/return"] for _, segment in lockstep.advance()]) for _ in range(3)]
    assert returns[0] < 30
    assert returns[-1] > 60


def test_numbers_of_the_device_are_drawn_as_generators_draw_them():
    rng, size = DeviceGenerator(jax.random.key(0)), (20_000, 2)
    drawn = [
        (rng.random(size), 0.0, 1.0, 0.5, 1 / 12),
        (rng.uniform(-1.0, 3.0, size), -1.0, 3.0, 1.0, 16 / 12),
        (rng.integers(2, 7, size), 2, 6, 4.0, 2.0),
        (rng.standard_normal(size), -6.0, 6.0, 0.0, 1.0),
    ]
    for values, low, high, mean, variance in drawn:
        found = np.asarray(values, np.float64)
        assert found.shape == size
        assert found.min() >= low
        assert found.max() <= high
        assert abs(found.mean() - mean) < 5 * np.sqrt(variance / found.size)
        assert abs(found.var() / variance - 1) < 0.05
        assert abs(np.corrcoef(found.T)[0, 1]) < 0.05
    assert [str(values.dtype) for values, *_ in drawn] == ["float32", "float32", "int32", "float32"]
    assert set(np.unique(drawn[2][0])) == {2, 3, 4, 5, 6}
    one, other = (DeviceGenerator(jax.random.key(1)) for _ in range(2))
    assert (one.random((3,)) == other.random((3,))).all()
    assert (one.random((3,)) != one.random((3,))).all()


class OnHost(type(algorithm_of("sac"))):
    """An algorithm of one's own whose actions are NumPy's."""

    def act(self, output, noise):
        return np.tanh(output[:, :1])


def test_an_algorithm_that_acts_in_numpy_is_an_error_with_a_way_out():
    job = job_of("sac", 0)
    job = job._replace(algorithm=OnHost(job.algorithm.config, job.algorithm.spaces))
    for task in (HOST["sac"], DEVICE["sac"]):
        with pytest.raises(
            InputError, match=r"OnHost.act .* `lth.types.namespace_of\(output\)`.* or set executor: local"
        ):
            trained([job._replace(task=task)])
