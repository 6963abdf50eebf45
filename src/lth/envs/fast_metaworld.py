"""Meta-World environments with a faster step that returns bit-identical numbers.

MuJoCo takes less than half of a step of metaworld 3.1.1. The rest is lookups of bodies by name, array functions on three numbers,
and, for graspable objects, one Python object per contact. `faster` returns a subclass of a Meta-World class that calls MuJoCo with
the same arguments in the same order and does the same arithmetic with less overhead:

- methods of `SawyerXYZEnv` that the class does not override are replaced by those of `_Faster`;
- the rewards and observations of the class are kept, but call faster versions of three functions: `reward_utils.tolerance`,
  `numpy.linalg.norm` and SciPy's `Rotation.from_matrix(...).as_quat()`.

Meta-World, NumPy and SciPy are not modified. If the step is not known to be exact (`is_exact`), `faster` returns the given class.
"""

import functools
import hashlib
import inspect
import math
import types
from typing import Any

import mujoco
import numpy as np
from metaworld import sawyer_xyz_env
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

VERIFIED = {
    sawyer_xyz_env: "4282580b80befc557f67d25acffffec737ad0dae2c440601be76fc09139f351d",
    reward_utils: "46478c0139f923f0d090c8e2324b45375cac02ee74a258ca35de597d8ad1f3bb",
}
"""The SHA-256 of the files whose code is replaced, in metaworld 3.1.1, the only verified version."""

_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])
_REAL = {float, int, np.float64}


def faster(environment: type) -> type:
    """Return a subclass of a Meta-World class with a faster step, or the class itself if results might differ."""
    return _subclass(environment) if is_exact() else environment


@functools.cache
def is_exact() -> bool:
    """Return whether the faster step is bit-identical to the installed version.

    It is if the two source files whose code it replaces are the verified ones, and the three functions agree bit by bit with those
    of the installed NumPy and SciPy on 200 inputs each. Does not use global random state.
    """
    try:
        known = all(
            hashlib.sha256(inspect.getsource(module).encode()).hexdigest() == digest
            for module, digest in VERIFIED.items()
        )
    except OSError:  # there is no source
        return False
    return known and _functions_agree(np.random.default_rng(0))


def _functions_agree(rng: np.random.Generator) -> bool:
    for _ in range(200):
        quaternion = rng.standard_normal(4)
        matrix = np.empty((3, 3))
        mujoco.mju_quat2Mat(matrix.reshape(9), quaternion / np.linalg.norm(quaternion))
        x, upper, margin = rng.uniform(0.0, 0.3, 3)
        vector = rng.standard_normal(3)
        pairs: list[tuple[Any, Any]] = [
            (_FastRotation.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat()),
            (_norm(vector), np.linalg.norm(vector)),
            (_norm(vector, ord=2), np.linalg.norm(vector, ord=2)),
        ]
        for sigmoid in ("long_tail", "gaussian"):
            how = {"bounds": (0, upper), "margin": margin, "sigmoid": sigmoid}
            pairs += [
                (_tolerance(value, **how), reward_utils.tolerance(value, **how)) for value in (x, float(x), -float(x))
            ]
        if any(type(a) is not type(b) or np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in pairs):
            return False
    return True


# ── what rewards and observations call ───────────────────────────────────────────────────────────────────────────────


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Return `numpy.linalg.norm(x, ord, axis, keepdims)`."""
    vector = type(x) is np.ndarray and x.ndim == 1 and x.dtype.char == "d"
    if vector and (ord is None or ord == 2) and axis is None and not keepdims:
        x = x.ravel()
        return np.sqrt(x.dot(x))
    return np.linalg.norm(x, ord, axis, keepdims)


@functools.cache
def _scale(sigmoid: str, value: float) -> Any:
    return np.sqrt(1 / value - 1) if sigmoid == "long_tail" else np.sqrt(-2 * np.log(value))


def _tolerance(
    x: Any, bounds: Any = (0.0, 0.0), margin: Any = 0.0, sigmoid: str = "gaussian", value_at_margin: float = 0.1
) -> Any:
    """Return `reward_utils.tolerance` of the same arguments: 1 within the bounds, decreasing with the distance outside."""
    lower, upper = bounds
    if (
        {type(x), type(lower), type(upper), type(margin)} <= _REAL
        and lower <= upper
        and margin > 0
        and value_at_margin == 0.1
        and sigmoid in ("long_tail", "gaussian")
    ):
        if lower <= x <= upper:
            return 1.0
        # NumPy's float, because Python's raises on overflow.
        scaled = np.float64(lower - x if x < lower else x - upper) / margin * _scale(sigmoid, 0.1)
        return float(1 / (scaled**2 + 1) if sigmoid == "long_tail" else np.exp(-0.5 * scaled**2))
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)


class _FastRotation:
    """SciPy's Rotation for one matrix, as a quaternion (x, y, z, w)."""

    def __init__(self, matrix: np.ndarray):
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Any:
        one = type(matrix) is np.ndarray and matrix.shape == (3, 3) and matrix.dtype.char == "d"
        return cls(matrix) if one else Rotation.from_matrix(matrix)

    def as_quat(self) -> np.ndarray:
        # Compute the largest of the four parts first, then the others from it.
        m = self._matrix.tolist()
        diagonal = (m[0][0], m[1][1], m[2][2])
        trace = diagonal[0] + diagonal[1] + diagonal[2]
        largest = max(*diagonal, trace)
        if largest in diagonal:
            i = diagonal.index(largest)
            j, k = (i + 1) % 3, (i + 2) % 3
            parts = [0.0, 0.0, 0.0, m[k][j] - m[j][k]]
            parts[i] = lead = 1 - trace + 2 * largest
            parts[j] = m[j][i] + m[i][j]
            parts[k] = m[k][i] + m[i][k]
        else:
            lead = 1 + trace
            parts = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], lead]
        x, y, z, w = parts
        square = x * x + y * y + z * z + w * w
        if not abs(square - 4.0 * lead) < 1e-9:  # not a rotation, or not finite
            return np.asarray(Rotation.from_matrix(self._matrix).as_quat())
        return np.array(parts) / math.sqrt(square)


class _Namespace:
    """A module with some attributes replaced."""

    def __init__(self, module: Any, **others: Any):
        self.__dict__.update(vars(module), **others)
        self.__dict__["_module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_GLOBALS = {
    "np": _Namespace(np, linalg=_Namespace(np.linalg, norm=_norm)),
    "reward_utils": _Namespace(reward_utils, tolerance=_tolerance),
    "Rotation": _FastRotation,
}


# ── the step ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Faster(SawyerXYZEnv):  # type: ignore[misc]
    """Replacements for methods of SawyerXYZEnv."""

    _views: tuple[Any, dict[tuple[str, str], np.ndarray]]
    _prev_obs: np.ndarray

    def _view(self, kind: str, name: str) -> np.ndarray:
        """Return the position of a body or site, or a part of the state, as a view into MuJoCo's memory."""
        cached = self.__dict__.get("_views")
        if cached is None or cached[0] is not self.data:
            cached = self._views = (self.data, {})
        views = cached[1]
        view = views.get((kind, name))
        if view is None:
            view = getattr(self.data, name) if kind == "state" else getattr(self.data, kind)(name).xpos
            views[kind, name] = view
        return view

    def get_body_com(self, body_name: str) -> np.ndarray:
        return self._view("body", body_name)

    def get_endeff_pos(self) -> np.ndarray:
        return self._view("body", "hand")

    @property
    def tcp_center(self) -> np.ndarray:
        middle: np.ndarray = (self._view("site", "rightEndEffector") + self._view("site", "leftEndEffector")) / 2.0
        return middle

    def _get_site_pos(self, site_name: str) -> np.ndarray:
        return self._view("site", site_name).copy()

    def _set_pos_site(self, name: str, pos: np.ndarray) -> None:
        self._view("site", name)[:] = pos[:3]

    def touching_object(self, object_geom_id: int) -> bool:
        data = self.data
        contacts, addresses, force = data.contact.geom.tolist(), data.contact.efc_address.tolist(), data.efc_force
        sides = []
        for pad in (data.geom("leftpad_geom").id, data.geom("rightpad_geom").id):
            sides.append(
                sum(
                    force[address]
                    for pair, address in zip(contacts, addresses, strict=True)
                    if pad in pair and object_geom_id in pair
                )
            )
        touching: bool = sides[0] > 0 and sides[1] > 0
        return touching

    def _gripper_caging_reward(
        self,
        action: np.ndarray,
        obj_pos: np.ndarray,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        if high_density and medium_density:
            raise ValueError("Can only be either high_density or medium_density")
        start, tcp = self.obj_init_pos, self.tcp_center
        y, y_start = float(obj_pos[1]), float(start[1])
        sides = []
        for pad in ("leftpad", "rightpad"):
            y_pad = float(self._view("body", pad)[1])
            margin = abs(abs(y_pad - y_start) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(_tolerance(abs(y_pad - y), bounds, margin, "long_tail"))
        between = reward_utils.hamacher_product(*sides)
        margin = _norm(start[::2] - self.init_tcp[::2]) - xz_thresh
        beside = _tolerance(_norm(tcp[::2] - obj_pos[::2]), (0, xz_thresh), margin, "long_tail")
        caging = reward_utils.hamacher_product(between, float(beside))
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward: float = reward_utils.hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin = abs(_norm(start - self.init_tcp) - object_reach_radius)
            reach = _tolerance(_norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
            reward = (reward + float(reach)) / 2
        return reward

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        objects = len(positions) // 3
        if len(positions) != 3 * objects or len(quaternions) != 4 * objects:
            plain: np.ndarray = SawyerXYZEnv._get_curr_obs_combined_no_goal(self)
            return plain
        apart = _norm(self._view("body", "rightclaw") - self._view("body", "leftclaw"))
        now = np.zeros(4 + self._obs_obj_max_len)
        now[:3] = self.get_endeff_pos()
        now[3] = min(max(apart / 0.1, 0.0), 1.0)
        for i in range(objects):
            now[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            now[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]
        return now

    def _get_obs(self) -> np.ndarray:
        goal, now = self._get_pos_goal(), self._get_curr_obs_combined_no_goal()
        observation = np.empty(36 + len(goal))
        observation[:18] = now
        observation[18:36] = self._prev_obs
        observation[36:] = 0.0 if self._partially_observable else goal
        self._prev_obs = now
        return observation

    def step(self, action: np.ndarray) -> Any:
        if self._did_see_sim_exception or self.curr_path_length >= self.max_path_length or not self._set_task_called:
            return SawyerXYZEnv.step(self, action)
        mocap = self._view("state", "mocap_pos")
        moved = mocap[0] + np.minimum(np.maximum(action[:3], -1), 1) * self.action_scale
        mocap[0] = np.minimum(np.maximum(moved, self.mocap_low), self.mocap_high)
        self._view("state", "mocap_quat")[:] = _MOCAP_QUATERNION
        self._step_mujoco_simulation((action[-1], -action[-1]), self.frame_skip)
        self.curr_path_length += 1
        for name, position in self._target_site_config:
            self._set_pos_site(name, position)
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        observation = np.minimum(np.maximum(self._get_obs(), space.low), space.high)
        self._last_stable_obs = observation
        reward, info = self.evaluate_state(observation, action)
        return observation.copy(), reward, False, self.curr_path_length == self.max_path_length, info


@functools.cache
def _subclass(environment: type) -> type:
    namespace: dict[str, Any] = {}
    for base in reversed(environment.__mro__[: environment.__mro__.index(SawyerXYZEnv) + 1]):
        for name, value in vars(base).items():
            namespace.pop(name, None)
            if (replaced := _with_globals(value)) is not None:
                namespace[name] = replaced
    for name, value in vars(_Faster).items():
        # Replace only methods inherited from Meta-World's base or from Gymnasium.
        if callable(value) or isinstance(value, property):
            owner = next((base for base in environment.__mro__ if name in vars(base)), SawyerXYZEnv)
            if issubclass(SawyerXYZEnv, owner):
                namespace[name] = value
    return type(environment.__name__, (environment,), namespace)


def _with_globals(value: Any) -> Any:
    """Return a method with its globals replaced by the faster functions; None if it uses none."""
    if isinstance(value, staticmethod):
        function = _with_globals(value.__func__)
        return None if function is None else staticmethod(function)
    if isinstance(value, property) and value.fget is not None:
        getter = _with_globals(value.fget)
        return None if getter is None else property(getter, value.fset, value.fdel, value.__doc__)
    if not isinstance(value, types.FunctionType):
        return None
    # A decorated method is in a closure cell of its wrapper.
    cells = value.__closure__ or ()
    wrapped = [_with_globals(cell.cell_contents) for cell in cells]
    used = {name: _GLOBALS[name] for name in _GLOBALS if name in value.__code__.co_names and name in value.__globals__}
    if not used and not any(wrapped):
        return None
    closure = tuple(types.CellType(new) if new else cell for new, cell in zip(wrapped, cells, strict=True))
    function = types.FunctionType(
        value.__code__, {**value.__globals__, **used}, value.__name__, value.__defaults__, closure
    )
    function.__kwdefaults__ = value.__kwdefaults__
    return function
