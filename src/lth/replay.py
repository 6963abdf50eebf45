"""The replay buffer: a ring of transitions on the device.

A transition is one row of a single array, `observation | action | reward | next observation | terminated`, because gathering
256 rows from one array takes a fifth of the time of gathering from five. Observations and rewards are stored raw.
"""

import functools
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError
from .shapes import Float32, Int32, Shaped
from .types import Array, Batch


class ReplayState(NamedTuple):
    """The buffer as a pytree; `width` is 2 * observation_dim + action_dim + 2."""

    rows: Float32[jax.Array, "capacity width"]
    position: Int32[jax.Array, ""]  # the next row to write
    size: Int32[jax.Array, ""]  # the number of rows that hold a transition


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def init_replay(capacity: int, observation_dim: int, action_dim: int) -> ReplayState:
    """Return an empty buffer for `capacity` transitions; `action_dim` is 1 for discrete actions."""
    zero = jnp.zeros((), jnp.int32)
    return ReplayState(jnp.zeros((capacity, 2 * observation_dim + action_dim + 2), jnp.float32), zero, zero)


Columns = tuple[
    Shaped[Array, "n observation_dim"],
    Shaped[Array, "n action_dim"],
    Shaped[Array, " n"],
    Shaped[Array, "n observation_dim"],
    Shaped[Array, " n"],
]
"""The fields of a Batch, with any dtypes."""


def pack_rows(batch: Columns) -> Float32[np.ndarray, "n width"]:
    """Convert transitions to rows of shape (n, 2 * observation_dim + action_dim + 2), float32."""
    observations, actions, rewards, next_observations, terminated = batch
    columns = [observations, actions, np.asarray(rewards)[:, None], next_observations, np.asarray(terminated)[:, None]]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def unpack_rows(rows: Float32[Array, "n width"], observation_dim: int) -> Batch:
    """Split rows into the fields of a Batch."""
    action_dim = rows.shape[1] - 2 * observation_dim - 2
    a, r = observation_dim, observation_dim + action_dim
    return Batch(rows[:, :a], rows[:, a:r], rows[:, r], rows[:, r + 1 : -1], rows[:, -1])


def insert(state: ReplayState, rows: Float32[Array, "n width"]) -> ReplayState:
    """Write rows (n, width) into the ring. A full ring overwrites its oldest rows."""
    capacity, n = state.rows.shape[0], rows.shape[0]
    skipped = max(n - capacity, 0)  # later rows would overwrite these
    where = (state.position + jnp.arange(skipped, n, dtype=jnp.int32)) % capacity
    return ReplayState(
        state.rows.at[where].set(rows[skipped:], mode="promise_in_bounds", unique_indices=True),
        (state.position + n) % capacity,
        jnp.minimum(state.size + n, capacity),
    )


def sample_rows(state: ReplayState, key: jax.Array, n: int) -> Float32[jax.Array, "{n} width"]:
    """Draw n rows uniformly, with replacement. The buffer must not be empty."""
    return take_rows(state, jax.random.randint(key, (n,), 0, state.size, jnp.int32))


def take_rows(state: ReplayState, indices: Int32[Array, " n"]) -> Float32[jax.Array, "n width"]:
    """Gather rows by their indices, all of which must be in [0, size)."""
    return state.rows.at[indices].get(mode="promise_in_bounds")


_sample_rows = jax.jit(sample_rows, static_argnums=2)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _with_room(rows: jax.Array, size: int, capacity: int) -> jax.Array:
    return jnp.zeros((capacity, rows.shape[1]), jnp.float32).at[:size].set(rows[:size])


class ReplayBuffer:
    """A replay buffer for use outside of training: sample, save and load.

    >>> buffer = ReplayBuffer(init_replay(100, observation_dim=3, action_dim=1), observation_dim=3)
    >>> len(buffer), buffer.capacity
    (0, 100)
    """

    def __init__(
        self,
        state: ReplayState,
        observation_dim: int,
        seed: int = 0,
        capacity: int | None = None,
        discrete: bool = False,
    ):
        self.state = state
        self.discrete = discrete
        self.capacity = capacity or int(state.rows.shape[0])
        self.observation_dim = observation_dim
        self._seed = seed
        self._draws = 0

    @property
    def action_dim(self) -> int:
        """The width of one action: its length, or 1 for discrete actions."""
        return int(self.state.rows.shape[1]) - 2 * self.observation_dim - 2

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self)} of {self.capacity} transitions)"

    def __len__(self) -> int:
        return int(self.state.size)

    def sample(self, batch_size: int, key: jax.Array | None = None) -> Batch:
        """Draw a batch uniformly, with replacement.

        Without a key, the buffer derives one from its seed and its number of draws, so a loaded buffer always gives the same
        sequence of batches.

        Raises:
            InputError: the buffer is empty, or `batch_size` is not an integer of at least 1.
        """
        if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, but must be an integer of at least 1")
        if len(self) == 0:
            raise InputError("the replay buffer is empty; train the agent first, or load a trained run")
        if key is None:
            key = jax.random.fold_in(jax.random.key(self._seed), self._draws)
            self._draws += 1
        return unpack_rows(_sample_rows(self.state, key, batch_size), self.observation_dim)

    def save(self) -> dict[str, np.ndarray]:
        """Return the content of the buffer as a plain dict of NumPy arrays, for pickling.

        `observations`, `actions`, `rewards`, `next_observations`, `terminated` (all float32, one transition per row, in
        storage order; discrete actions are int32), and the scalars `capacity` and `position` (int64).
        """
        rows = np.asarray(self.state.rows)[: len(self)]  # JAX would compile a slice of each size
        data = {
            name: np.array(field, order="C")
            for name, field in unpack_rows(rows, self.observation_dim)._asdict().items()
        }
        if self.discrete:
            data["actions"] = data["actions"].astype(np.int32)
        data["capacity"] = np.array(self.capacity, np.int64)
        data["position"] = np.array(int(self.state.position), np.int64)
        return data

    @classmethod
    def load(cls, data: Mapping[str, Any], what: str = "the replay buffer", seed: int = 0) -> "ReplayBuffer":
        """Make a buffer from the result of `save`.

        Raises:
            InputError: a field is missing, has a wrong shape, or contains NaN or infinity (names the field and the row).
        """
        fields = {}
        for name in (*Batch._fields, "capacity", "position"):
            if name not in data:
                raise InputError(f"{what} has no field {name!r}; it has {sorted(map(str, data))}")
            fields[name] = np.asarray(data[name])
            if fields[name].dtype.kind not in "fiub":
                raise InputError(f"{what}: field {name!r} holds {fields[name].dtype}, not numbers")
        rows = fields["rewards"].shape[0] if fields["rewards"].ndim == 1 else -1
        for name in Batch._fields:
            ndim = 1 if name in ("rewards", "terminated") else 2
            if fields[name].ndim != ndim or fields[name].shape[0] != rows:
                raise InputError(
                    f"{what}: field {name!r} has shape {fields[name].shape}, while 'rewards' has {fields['rewards'].shape}; "
                    "rewards and terminated are (n,), the others (n, dim)"
                )
            if fields[name].dtype.kind == "f":
                with np.errstate(over="ignore"):  # overflow becomes infinity, which is reported below
                    fields[name] = fields[name].astype(np.float32)
            bad = ~np.isfinite(fields[name]).all(axis=tuple(range(1, ndim)))
            if bad.any():
                raise InputError(
                    f"{what}: field {name!r} holds NaN or infinity in row {int(bad.argmax())} "
                    f"({int(bad.sum())} of {rows} rows are bad). Did the environment or the policy return it?"
                )
        if fields["next_observations"].shape != fields["observations"].shape:
            raise InputError(
                f"{what}: next_observations has shape {fields['next_observations'].shape}, but observations has "
                f"{fields['observations'].shape}"
            )
        if not np.isin(fields["terminated"], (0, 1)).all():
            raise InputError(f"{what}: field 'terminated' holds values other than 0 and 1")
        actions = fields["actions"]
        # Integer dtypes mean discrete actions, counted from 0.
        discrete = actions.dtype.kind in "iu" and actions.shape[1] == 1 and not (actions.size and actions.min() < 0)
        if discrete and actions.size and actions.max() >= 2**24:
            raise InputError(f"{what}: field 'actions' holds {actions.max()}; discrete actions must be below 2^24")
        if not discrete and actions.size and (actions.min() < -1 or actions.max() > 1):
            raise InputError(
                f"{what}: field 'actions' has values outside [-1, 1]; continuous actions must be in [-1, 1], as the policy's tanh "
                "returns them, and discrete actions must be integers from 0, of shape (n, 1)"
            )
        if any(fields[name].ndim or fields[name].dtype.kind not in "iu" for name in ("capacity", "position")):
            raise InputError(f"{what}: 'capacity' and 'position' must be integer scalars")
        capacity, position = int(fields["capacity"]), int(fields["position"])
        written = position == rows if rows < capacity else rows == capacity and 0 <= position < capacity
        if capacity < 1 or not written:
            raise InputError(
                f"{what}: capacity {capacity} and position {position} are inconsistent with its {rows} transitions"
            )
        batch = Batch(*(fields[name].astype(np.float32) for name in Batch._fields))
        state = ReplayState(*jax.device_put((pack_rows(batch), np.array(position, np.int32), np.array(rows, np.int32))))
        return cls(state, batch.observations.shape[1], seed, capacity, discrete)

    def full_state(self) -> ReplayState:
        """Return the state padded to `capacity` rows; a loaded buffer stores only its transitions."""
        return self.state._replace(rows=_with_room(self.state.rows, len(self), self.capacity))
