"""Names of observation entries for each task.

Abbreviated from the observation tables in the documentation of Gymnasium (https://gymnasium.farama.org/environments/mujoco/) and
Meta-World (https://metaworld.farama.org/benchmark/state_space/). MuJoCo's quaternions are (w, x, y, z), and its spatial vectors
have the rotation before the translation.
"""

from collections.abc import Callable, Sequence

_XYZ = ("x", "y", "z")
_QUATERNION = ("w", "x", "y", "z")


def _of(parts: Sequence[str], *names: str) -> list[str]:
    return [f"{name} {part}" for name in names for part in parts]


def _moving(places: Sequence[str], joints: Sequence[str], speeds: Sequence[str]) -> list[str]:
    """Return the names of positions, then velocities, of a body's root and joints."""
    return [*places, *(f"{j} angle" for j in joints), *speeds, *(f"{j} velocity" for j in joints)]


_PLANAR = (("height", "pitch"), ("x velocity", "z velocity", "pitch velocity"))
_FREE = (
    ("height", *_of(_QUATERNION, "orientation")),
    (*(f"{axis} velocity" for axis in _XYZ), *(f"{axis} angular velocity" for axis in _XYZ)),
)
_LEG = ("thigh", "leg", "foot")


def _half_cheetah() -> list[str]:
    joints = [f"{side} {part}" for side in ("back", "front") for part in ("thigh", "shin", "foot")]
    return _moving(_PLANAR[0], joints, _PLANAR[1])


def _ant() -> list[str]:
    legs = ("front left", "front right", "back left", "back right")
    joints = [f"{leg} {part}" for leg in legs for part in ("hip", "ankle")]
    bodies = ["torso", *(f"{leg} {part}" for leg in legs for part in ("hip", "leg", "foot"))]
    forces = [f"contact {kind} {axis} on {body}" for body in bodies for kind in ("torque", "force") for axis in _XYZ]
    return [*_moving(_FREE[0], joints, _FREE[1]), *forces]


def _humanoid() -> list[str]:
    hips = [f"{side} {part}" for side in ("right", "left") for part in ("hip x", "hip z", "hip y", "knee")]
    arms = [f"{side} {part}" for side in ("right", "left") for part in ("shoulder 1", "shoulder 2", "elbow")]
    joints = ["abdomen z", "abdomen y", "abdomen x", *hips, *arms]
    bodies = ["torso", "lower waist", "pelvis"]
    bodies += [f"{side} {part}" for side in ("right", "left") for part in ("thigh", "shin", "foot")]
    bodies += [f"{side} {part}" for side in ("right", "left") for part in ("upper arm", "lower arm")]
    inertia = [*(f"inertia {i}" for i in ("xx", "yy", "zz", "xy", "xz", "yz")), *_of(_XYZ, "mass times offset"), "mass"]
    return [
        *_moving(_FREE[0], joints, _FREE[1]),
        *(f"{what} of {body}" for body in bodies for what in inertia),
        *(f"{kind} {axis} of {body}" for body in bodies for kind in ("angular velocity", "velocity") for axis in _XYZ),
        *(f"{joint} torque" for joint in joints),
        *(f"contact {kind} {axis} on {body}" for body in bodies for kind in ("torque", "force") for axis in _XYZ),
    ]


def _pusher() -> list[str]:
    joints = ["shoulder pan", "shoulder lift", "upper arm roll", "elbow flex", "forearm roll", "wrist flex"]
    return [*_moving((), [*joints, "wrist roll"], ()), *_of(_XYZ, "fingertip", "object", "goal")]


def metaworld_observations() -> list[str]:
    """Return the names of the observation entries of Meta-World tasks."""
    frame = [*_of(_XYZ, "hand"), "gripper opening"]
    for thing in ("object 1", "object 2"):
        frame += [*_of(_XYZ, thing), *_of(_QUATERNION, f"{thing} quaternion")]
    return [*frame, *(f"previous {name}" for name in frame), *_of(_XYZ, "goal")]


_NAMES: dict[str, Callable[[], list[str]]] = {
    "Pendulum": lambda: ["cos(angle)", "sin(angle)", "angular velocity"],
    "MountainCarContinuous": lambda: ["position", "velocity"],
    "InvertedPendulum": lambda: ["cart position", "pole angle", "cart velocity", "pole angular velocity"],
    "InvertedDoublePendulum": lambda: [
        "cart position",
        *(f"{function}({pole} angle)" for function in ("sin", "cos") for pole in ("pole 1", "pole 2")),
        *("cart velocity", "pole 1 angular velocity", "pole 2 angular velocity", "constraint force on cart"),
    ],
    "Reacher": lambda: [
        *(f"{function}({joint} angle)" for function in ("cos", "sin") for joint in ("joint 0", "joint 1")),
        *("target x", "target y", "joint 0 velocity", "joint 1 velocity"),
        *("fingertip minus target x", "fingertip minus target y"),
    ],
    "Pusher": _pusher,
    "Swimmer": lambda: _moving(
        ("front angle",), ("rotor 1", "rotor 2"), ("x velocity", "y velocity", "front velocity")
    ),
    "Hopper": lambda: _moving(_PLANAR[0], _LEG, _PLANAR[1]),
    "HalfCheetah": _half_cheetah,
    "Walker2d": lambda: _moving(_PLANAR[0], [*_LEG, *(f"left {part}" for part in _LEG)], _PLANAR[1]),
    "Ant": _ant,
    "Humanoid": _humanoid,
    "HumanoidStandup": _humanoid,
}


_LINEAR = ("x velocity", "y velocity", "z velocity", "cart velocity")
_UNITS = (
    (("sin(", "cos(", "orientation", "quaternion"), "1"),
    (("contact torque",), "N m"),
    (("contact force", "constraint force"), "N"),
    (("angle", "pitch"), "rad"),
    (("height", "cart position"), "m"),
)
"""Parts of names, and the unit of such an observation; the first match applies."""


def unit(name: str) -> str | None:
    """Return the SI unit of an observation named by `gymnasium_observations` or `metaworld_observations`; None if unknown.

    >>> unit("front shin velocity"), unit("x velocity"), unit("previous hand x"), unit("cos(angle)"), unit("obs[3]")
    ('rad/s', 'm/s', 'm', '1', None)
    """
    if name.endswith(" velocity"):
        return "m/s" if name in _LINEAR else "rad/s"
    known = next((found for parts, found in _UNITS if any(part in name for part in parts)), None)
    return known or ("m" if name.endswith((" x", " y", " z")) else None)


def gymnasium_observations(task: str) -> list[str]:
    """Return the names of the observation entries of a Gymnasium task; empty if unknown."""
    name = "" if ":" in task else task.rpartition("-v")[0]
    return _NAMES[name]() if name in _NAMES else []
