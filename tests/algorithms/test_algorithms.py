"""What every algorithm has to do: one set of tests over all rows of ALGORITHMS."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.small import ROOT, SMALL
from helpers.trees import copied, on_host

import lth
from lth.algorithms import ALGORITHMS, DQNConfig
from lth.algorithms.acting import act, policy_of, policy_reader
from lth.algorithms.architecture import Network, Spaces
from lth.algorithms.base import Agent
from lth.algorithms.checkpoint import dump_agent, load_agent
from lth.algorithms.controls import small_dense
from lth.algorithms.learner import draw, flat_policy, layer_order, learner
from lth.algorithms.networks import apply_of
from lth.algorithms.packed import pack_state, patterns_of, unpack_state
from lth.algorithms.tickets import make_ticket, masks_of
from lth.cli import main
from lth.files import write_whole
from lth.pruning.controls import random_mask
from lth.replay import ReplayBuffer, init_replay, pack_rows
from lth.saliency import batch_gradients, gradient_halves, network_loss
from lth.sparse import native
from lth.types import Batch

SIZES = {
    "sac": {"actor_hidden": (16, 12), "critic_hidden": (14, 10)},
    "td3": {"actor_hidden": (16, 12), "critic_hidden": (14, 10)},
    "dqn": {"q_hidden": (16, 12), "target_every": 4},
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def build(name, observation_dim=5, action_dim=3, **settings):
    config = ALGORITHMS[name](**{**SIZES[name], **settings})
    return config.build(Spaces(observation_dim, action_dim, config.DISCRETE))


def transitions(algorithm, n, seed=0):
    rng = np.random.default_rng(seed)
    observations, after = (rng.normal(size=(n, algorithm.spaces.observation_dim)).astype(np.float32) for _ in range(2))
    ends = (rng.random(n) < 0.1).astype(np.float32)
    return Batch(observations, algorithm.random_actions(rng, n), rng.normal(size=n).astype(np.float32), after, ends)


def buffer_of(algorithm, n=200, seed=0):
    replay = init_replay(n, algorithm.spaces.observation_dim, algorithm.spaces.action_width)
    buffer = ReplayBuffer(replay, algorithm.spaces.observation_dim, discrete=algorithm.spaces.discrete)
    data = buffer.save()
    data |= {k: np.asarray(v) for k, v in transitions(algorithm, n, seed)._asdict().items()}
    if algorithm.spaces.discrete:
        data["actions"] = data["actions"].astype(np.int32)
    return ReplayBuffer.load({**data, "position": np.array(0, np.int64)})


def learned(algorithm, state, updates=20, patterns=None, seed=1):
    """Return the state after some updates on the buffer of `buffer_of`, one new transition among them."""
    rng = np.random.default_rng(seed)
    replay = copied(buffer_of(algorithm).state)
    draws = draw(algorithm, rng, updates, 32, 200)
    start = copied(state if patterns is None else pack_state(patterns, state))
    after, *_ = learner(algorithm, patterns)(start, replay, pack_rows(transitions(algorithm, 1, 7)), draws)
    return after if patterns is None else unpack_state(patterns, after, state)


def masked(algorithm, state, sparsity=0.8):
    return {n: random_mask(p, sparsity, jax.random.key(3), (), "erk") for n, p in state.params.items()}


def raw(tree):
    def bytes_of(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return [bytes_of(leaf) for leaf in jax.tree.leaves(tree)]


@every_algorithm
def test_networks_are_as_described(name):
    algorithm = build(name)
    state = algorithm.init(jax.random.key(0))
    assert set(state.params) == set(algorithm.config.NETWORKS) == set(algorithm.networks)
    for network, about in algorithm.networks.items():
        leaves = lth.pruning.layers.named_leaves(state.params[network])
        kernels = {n.removesuffix("/kernel"): leaf.shape for n, leaf in leaves.items() if n.endswith("/kernel")}
        assert kernels == about.kernels(algorithm.spaces)
        assert sum(leaf.size for leaf in leaves.values()) == about.parameters(algorithm.spaces)
        assert (network in state.targets) == about.target
    assert raw(state.targets) == raw({n: state.params[n] for n in state.targets})
    assert algorithm.networks[algorithm.policy].inputs == ("observations",)
    assert algorithm.config.spaces(5, algorithm.networks[algorithm.policy].outputs) == algorithm.spaces
    assert Agent(algorithm.config, state).algorithm == algorithm
    assert set(algorithm.config.passes()) == set(algorithm.networks)


@every_algorithm
def test_the_loss_of_a_network_moves_no_other_and_the_sum_has_its_gradient(name):
    algorithm = build(name, normalize_obs=False)
    state = learned(algorithm, algorithm.init(jax.random.key(0)))
    batch = transitions(algorithm, 32, 5)
    key = jax.random.key(9)
    noise = jax.random.normal(key, algorithm.noise_shape(32))

    def one(params, network):
        return algorithm.losses(state, params, batch, noise, algorithm.applies())[network]

    whole = jax.jit(jax.grad(lambda params: network_loss(algorithm, state, params, batch, key)))(state.params)
    gradients_of = jax.jit(jax.grad(one), static_argnums=1)
    for network in state.params:
        grads = on_host(gradients_of(state.params, network))
        for other, tree in grads.items():
            flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
            assert (flat == 0).all() if other != network else (flat != 0).any()
        for a, b in zip(jax.tree.leaves(grads[network]), jax.tree.leaves(whole[network]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@every_algorithm
def test_pruned_weights_stay_exactly_zero_everywhere(name):
    algorithm = build(name)
    start = algorithm.init(jax.random.key(0))
    masks = masked(algorithm, start)
    ticket = make_ticket(start, masks)
    after = learned(algorithm, ticket, 25)
    for network, mask in masks.items():
        opt = after.opts[network]
        adam = opt.inner[0]
        trees = [after.params[network], adam.mu, adam.nu]
        trees += [after.targets[network]] if network in after.targets else []
        for tree in trees:
            for m, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(tree), strict=True):
                assert (np.asarray(leaf)[np.asarray(m) == 0] == 0.0).all()
        kernels = zip(jax.tree.leaves(ticket.params[network]), jax.tree.leaves(after.params[network]), strict=True)
        assert all((np.asarray(a) != np.asarray(b)).any() for a, b in kernels)
        assert int(adam.count) == 25 // algorithm.networks[network].period
    assert int(after.grad_steps) == 25
    assert raw(masks_of(after)) == raw(masks)


@every_algorithm
def test_a_ticket_that_lost_nothing_is_the_dense_agent(name):
    algorithm = build(name)
    start = algorithm.init(jax.random.key(0))
    ones = jax.tree.map(np.ones_like, on_host(start.params))
    assert raw(make_ticket(start, ones)) == raw(start)
    assert raw(learned(algorithm, make_ticket(start, ones))) == raw(learned(algorithm, start))


@every_algorithm
def test_the_native_kernel_computes_the_same(name):
    try:
        native.load()
    except native.Unavailable as error:
        pytest.skip(f"the native kernel is not available: {error}")
    algorithm = build(name)
    start = algorithm.init(jax.random.key(0))
    ticket = make_ticket(start, masked(algorithm, start, 0.7))
    patterns = patterns_of(ticket)
    dense, sparse = learned(algorithm, ticket), learned(algorithm, ticket, patterns=patterns)
    for a, b in zip(jax.tree.leaves(dense.params), jax.tree.leaves(sparse.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    observations = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    flat = np.asarray(flat_policy(algorithm, pack_state(patterns, ticket)))
    packed, whole = policy_reader(algorithm, patterns)(flat), policy_of(Agent(algorithm.config, ticket))
    np.testing.assert_allclose(act(packed, observations), act(whole, observations), atol=1e-5)


@every_algorithm
@pytest.mark.parametrize("normalize_obs", [True, False])
def test_acting_in_numpy_is_the_network(name, normalize_obs):
    algorithm = build(name, normalize_obs=normalize_obs)
    state = learned(algorithm, algorithm.init(jax.random.key(0)))
    batch = transitions(algorithm, 40, 2)
    seen = jax.jit(algorithm.prepare)(state.normalizer, batch).observations
    output = np.asarray(jax.jit(algorithm.applies()[algorithm.policy])(state.params[algorithm.policy], seen))
    actions = act(policy_of(Agent(algorithm.config, state)), batch.observations)
    np.testing.assert_allclose(actions, algorithm.act(output, None), atol=1e-5)
    assert actions.shape == (40, algorithm.spaces.action_width)
    explored = algorithm.act(output, algorithm.explore(np.random.default_rng(0), 40, 0.5))
    for chosen in (actions, explored, algorithm.random_actions(np.random.default_rng(0), 40)):
        assert chosen.dtype == np.float32
        if algorithm.spaces.discrete:
            assert set(chosen.ravel()) <= {0.0, 1.0, 2.0}
        else:
            assert (np.abs(chosen) <= 1.0).all()


def test_a_policy_with_layer_normalization_acts_as_its_network_does():
    algorithm = build("dqn", q_layer_norm=True)
    state = learned(algorithm, algorithm.init(jax.random.key(0)))
    assert layer_order(algorithm) == ["layer_0", "norm_0", "layer_1", "norm_1", "output"]
    observations = transitions(algorithm, 30).observations
    policy = policy_of(Agent(algorithm.config, state))
    seen = (observations - policy.mean) * policy.scale
    output = jax.jit(algorithm.applies()["q"])(state.params["q"], np.clip(seen, -policy.clip, policy.clip))
    np.testing.assert_allclose(policy.network(np.clip(seen, -policy.clip, policy.clip)), output, rtol=1e-4, atol=1e-5)


@every_algorithm
def test_checkpoints_hold_everything_and_name_the_algorithm(name, tmp_path):
    algorithm = build(name, discount=0.9)
    state = learned(algorithm, algorithm.init(jax.random.key(4)))
    write_whole(tmp_path / "checkpoint.safetensors", dump_agent(algorithm.config, state, {"task": "a task"}))
    config, again, about = load_agent(tmp_path / "checkpoint.safetensors")
    assert (config, about) == (algorithm.config, {"task": "a task"})
    assert raw(again) == raw(state)
    assert jax.tree.structure(again) == jax.tree.structure(state)


@every_algorithm
def test_gradient_statistics_are_the_mean_over_single_batches(name):
    algorithm = build(name)
    state, buffer = learned(algorithm, algorithm.init(jax.random.key(0))), buffer_of(algorithm)
    agent, key = Agent(algorithm.config, state, buffer), jax.random.key(11)
    found = lth.gradient_statistics(agent, buffer, num_batches=6, batch_size=16, key=key)
    assert set(found) == set(state.params)
    total = jax.tree.map(np.zeros_like, on_host(state.params))
    for i in range(6):
        index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        rows = jax.random.randint(index_key, (16,), 0, 200, jnp.int32)
        batch = Batch(*(x[np.asarray(rows)] for x in transitions(algorithm, 200)))
        grads = on_host(batch_gradients(agent, batch, key=noise_key))
        total = jax.tree.map(lambda t, g: t + np.abs(g), total, grads)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(a, b / 6, rtol=1e-4, atol=1e-7)
    even, odd = gradient_halves(agent, buffer, 6, 16, key=key)
    for half_a, half_b, whole in zip(*map(jax.tree.leaves, on_host((even, odd, found))), strict=True):
        np.testing.assert_allclose((half_a + half_b) / 2, whole, rtol=1e-4, atol=1e-7)
    masks = {n: lth.prune(p, 0.75, "taylor", gradients=found[n]) for n, p in state.params.items()}
    assert all(abs(lth.compute_sparsity(mask) - 0.75) < 0.01 for mask in masks.values())


@pytest.mark.parametrize("function", ["accumulate_gradient_statistics", "compute_gradients_from_batch"])
def test_the_documents_pair_is_for_actor_and_critic(function):
    for name in ("sac", "td3"):
        algorithm = build(name)
        agent = Agent(algorithm.config, algorithm.init(jax.random.key(0)))
        given = buffer_of(algorithm) if "accumulate" in function else transitions(algorithm, 8)
        pair = getattr(lth, function)(agent, given)
        assert [jax.tree.structure(t) for t in pair] == [
            jax.tree.structure(agent.state.params[n]) for n in ("actor", "critic")
        ]
    algorithm = build("dqn")
    agent = Agent(algorithm.config, algorithm.init(jax.random.key(0)))
    with pytest.raises(lth.InputError, match=r"DQN agent has the networks q.*lth\.gradient_statistics"):
        getattr(lth, function)(agent, None)
    with pytest.raises(lth.InputError, match=r"no network 'actor'; it has q"):
        _ = agent.state.actor_params


def test_actions_that_an_algorithm_does_not_take_are_refused_by_name():
    with pytest.raises(
        lth.InputError, match=r"'CartPole-v1' has discrete actions, which SAC does not support.*algorithm=dqn"
    ):
        ALGORITHMS["sac"]().build(Spaces(4, 2, True), "CartPole-v1")
    with pytest.raises(lth.InputError, match=r"continuous actions, which DQN.*algorithm=sac or algorithm=td3"):
        ALGORITHMS["dqn"]().build(Spaces(4, 2))


def test_a_buffer_of_another_number_of_actions_is_refused():
    few, many = build("dqn", action_dim=2), build("dqn", action_dim=4)
    agent = Agent(few.config, few.init(jax.random.key(0)))
    with pytest.raises(lth.InputError, match=r"holds the action [23], but the agent has 2 actions"):
        lth.gradient_statistics(agent, buffer_of(many))
    with pytest.raises(lth.InputError, match=r"the batch holds the action [23], but the agent has 2 actions"):
        batch_gradients(agent, transitions(many, 50))
    sac = build("sac", action_dim=1)
    for one, other in ((few, sac), (sac, few)):
        agent = Agent(one.config, one.init(jax.random.key(0)))
        with pytest.raises(
            lth.InputError, match=r"replay buffer holds (continuous|discrete) actions, but the agent needs"
        ):
            lth.gradient_statistics(agent, buffer_of(other))


def test_discrete_actions_survive_the_buffers_file():
    algorithm = build("dqn")
    buffer = buffer_of(algorithm)
    saved = buffer.save()
    assert saved["actions"].dtype == np.int32
    assert buffer.discrete
    again = ReplayBuffer.load(saved)
    assert again.discrete
    assert raw(again.state) == raw(buffer.state)
    with pytest.raises(lth.InputError, match="'actions' has values outside"):
        ReplayBuffer.load({**saved, "actions": saved["actions"].astype(np.float32)})


def test_parameters_of_an_ensemble_and_of_one_network():
    spaces = Spaces(3, 2)
    one = Network(("observations", "actions"), (4,), 1, 1e-3)
    two = one._replace(members=("q1", "q2"))
    assert (one.parameters(spaces), two.parameters(spaces)) == (5 * 4 + 4 + 4 + 1, 2 * 29)
    assert (one.copies, two.copies) == (1, 2)
    params = {m: {"layer_0": {"kernel": np.ones((5, 4)), "bias": np.zeros(4)}} for m in ("q1", "q2")}
    for m, scale in (("q1", 1.0), ("q2", 2.0)):
        params[m]["output"] = {"kernel": np.full((4, 1), scale), "bias": np.zeros(1)}
    x = np.ones((7, 3), np.float32), np.ones((7, 2), np.float32)
    np.testing.assert_allclose(jax.jit(apply_of(two))(params, *x), np.broadcast_to([[20.0], [40.0]], (2, 7)))


NAMES = re.compile(r"(?<![a-z])(actor|critic)(s|_|(?![a-z]))|SAC(Config|State)|\bTD3\b|\bDQN\b", re.IGNORECASE)
OWN_NAMES = {
    "gradient_pruning.py": "the functions of docs/saliency-pruning.md return an actor's and critics' gradients",
    "scripts.py": "so does _02_create_mask.py",
    "starting.py": "the settings of the quickstart",
    "exporting/models.py": "takes other libraries' agents",
    **{f"libraries/{name}.py": "so does all of it" for name in ("adopt", "models", "prune", "settings", "weights")},
    **{f"libraries/{name}_masks.py": "so does all of it" for name in ("sb3", "sbx")},
    "config.py": "imports the settings of each algorithm, and documents their networks' names",
}


def test_no_module_outside_algorithms_names_a_network_or_an_algorithm():
    package = ROOT / "src" / "lth"
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        lines = [line for line in path.read_text().splitlines() if NAMES.search(line)]
        if lines and not name.startswith("algorithms/"):
            found[name] = lines
    assert set(found) <= set(OWN_NAMES), {k: v for k, v in found.items() if k not in OWN_NAMES}
    assert len(found["config.py"]) <= 15, found["config.py"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "algorithm=dqn",
            r"'Pendulum-v1' has continuous actions, which DQN does not support. Use algorithm=sac or algorithm=td3",
        ),
        ("tasks=CartPole-v1", r"'CartPole-v1' has discrete actions, which SAC does not support. Use algorithm=dqn"),
        ("algorithm=tdd3", r"unknown algorithm 'tdd3'; choose from sac, td3, dqn.*did you mean 'td3'"),
        ("algorithm=[sac,td3]", r"algorithm: expected one name, such as sac, but got \['sac', 'td3'\]\n$"),
        ("algorithm=td3 agent.tau=3", r"set td3\.\*, as in td3\.tau"),
        ("algorithm=td3 td3.policy_dely=3", r"unknown key 'td3.policy_dely'; did you mean 'policy_delay'"),
        ("algorithm=dqn tasks=CartPole-v1 pruning.sparsity.actor=0.9", r"unknown network 'actor'; the algorithm has q"),
        ("pruning.sparsity={actor: 0.9, crtic: 0.8}", r"unknown network 'crtic'.*did you mean 'critic'"),
        ("pruning.sparsity={actor: 0.9}", r"the sparsity of the network 'critic' is missing"),
        (
            "algorithm=dqn tasks=CartPole-v1 pruning.exclude=q/layer_7",
            r"unknown layer .* the layers of q are.*did you mean 'q/layer_1'",
        ),
    ],
)
def test_a_mistake_about_algorithms_is_one_error_with_a_way_out(words, says, tmp_path, capsys):
    given = words.split(" ") if "{" not in words else [words]
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert main(["run", str(path), f"output_dir={tmp_path / 'out'}", *given]) == 2
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_falling_learning_rate_stands_where_the_ticket_starts(tmp_path):
    tree = {
        **SMALL,
        "algorithm": "dqn",
        "tasks": ["CartPole-v1"],
        "dqn": {"q_hidden": [8, 8], "q_learning_rate_steps": 500},
        "output_dir": str(tmp_path),
        "pruning": {
            "methods": ["magnitude"],
            "controls": ["reinit"],
            "rewind_steps": [0, 200, "none"],
            "sparsity": 0.5,
        },
    }
    (tmp_path / "dqn.yaml").write_text(yaml.safe_dump(tree))
    assert main(["run", str(tmp_path / "dqn.yaml")]) == 0
    starts = {
        "": 0,
        "-reinit": 0,
        "-rewind200": 200,
        "-reinit-rewind200": 200,
        "-finetune": 100,
        "-reinit-finetune": 100,
    }
    for words, start in starts.items():
        (run,) = [
            p
            for p in tmp_path.glob(f"*/*/ticket-magnitude-0.5{words}-*")
            if re.fullmatch(r"[0-9a-f]{8}", p.name[-8:]) and p.name[:-9] == f"ticket-magnitude-0.5{words}"
        ]
        done = 0 if "finetune" in words else max(start - 100, 0)
        first, last = lth.load(run, start).agent.state, lth.load(run).agent.state
        counts = [int(s.opts["q"].inner[1].count) for s in (first, last)]
        assert counts == [done, int(last.grad_steps)], words
        moved = np.abs(np.asarray(first.params["q"]["output"]["bias"]) - np.asarray(last.params["q"]["output"]["bias"]))
        assert (moved > 0).all(), words


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"statistic": "mean_abbs"}, "unknown statistic 'mean_abbs'; choose from .*did you mean 'mean_abs'"),
        ({"first": 9}, "first=9 and step=1 select none of the 4 batches"),
        ({"step": 0}, "step=0"),
        ({"step": -1}, "step=-1"),
    ],
)
def test_statistics_of_nothing_are_refused(given, says):
    algorithm = build("dqn")
    agent = Agent(algorithm.config, algorithm.init(jax.random.key(0)))
    with pytest.raises(lth.InputError, match=says):
        lth.gradient_statistics(agent, buffer_of(algorithm), num_batches=4, **given)


def test_a_dry_run_knows_the_tasks_that_masks_come_from(tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("")
    words = [
        "algorithm=dqn",
        "tasks=CartPole-v1",
        "pruning.transfer_from=Acrobot-v1",
        "pruning.transfer_mismatch=dense",
    ]
    assert main(["run", str(tmp_path / "empty.yaml"), f"output_dir={tmp_path}", *words, "--dry-run", "--list"]) == 0
    assert "Acrobot-v1 seed 0 dense" in capsys.readouterr().out


class Fixed(ALGORITHMS["dqn"]):
    """An algorithm of one's own whose network has no setting for its size."""

    NETWORKS = ("value",)
    POLICY = "value"

    def describe(self, spaces):
        return {"value": super().describe(spaces)["q"]}


def test_small_dense_needs_the_settings_that_it_changes():
    spaces = Spaces(4, 2, discrete=True)
    assert small_dense(DQNConfig(), spaces, {"q": 0.9}, ()).q_hidden < (256, 256)
    with pytest.raises(lth.InputError, match="small-dense needs the settings value_hidden, which DQN does not have"):
        small_dense(Fixed(), spaces, {"value": 0.9}, ())
