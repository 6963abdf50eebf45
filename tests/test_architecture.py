"""Imports go downward only; and importing lth costs nothing heavy."""

import ast
import runpy

from helpers.small import ROOT

PACKAGE = ROOT / "src" / "lth"

SETTINGS = "algorithms, its settings"
"""architecture.py and each config.py, which import no JAX, so that `config` can import them."""

RANKS = {
    "__main__": 8,
    "errors": 0,
    "text": 0,
    "precision": 0,
    "pickles": 0,
    "shapes": 0,
    "types": 0.1,
    "threads": 0,
    "registry": 0.1,
    "settings": 0.2,
    SETTINGS: 0.4,
    "files": 1,
    "mask_files": 1.5,
    "pruning": 1,
    "replay": 1,
    "stats": 1,
    "envs": 2,
    "sparse": 2,
    "algorithms": 3,
    "config": 3.5,
    "saliency": 4,
    "analysis": 4,
    "gradient_pruning": 4.5,
    "sbx": 4,
    "training": 4,
    "experiment": 5,
    "starting": 5,
    "evaluation": 5.5,
    "scripts": 5.5,
    "reporting": 6,
    "libraries": 5.7,
    "exporting": 5.9,
    "api": 7,
    "cli": 7.5,
}
"""docs/architecture.md draws the same house. Within a rank, imports stay inside one folder (rank 0 may use errors)."""


def room_of(parts):
    """Name the room of a module, given the parts of its path below lth."""
    room, *rest = [part.removesuffix(".py") for part in parts]
    inside = {p.stem for p in (PACKAGE / "algorithms").iterdir()} - {"architecture", "__init__"}
    if room == "algorithms" and (not rest or rest[0] not in inside or rest[1:2] == ["config"]):
        return SETTINGS
    return room


def imports(path):
    """Yield the rooms of lth that a file imports, lazily or not, and the line; absolute imports of lth are wrong."""
    parts = path.relative_to(PACKAGE).parts
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] in ("lth", "src") for alias in node.names), f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.level or (node.module or "").split(".")[0] not in ("lth", "src"), f"{path}:{node.lineno}"
            if not node.level:
                continue
            base = list(parts[: len(parts) - node.level])
            for alias in node.names:
                target = base + (node.module.split(".") if node.module else []) + [alias.name]
                yield room_of(target), node.lineno


def test_imports_go_downward():
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert len(files) > 25
    for path in files:
        parts = path.relative_to(PACKAGE).parts
        room = room_of(parts)
        for target, line in imports(path):
            if target in (room, parts[0], "__version__"):
                continue
            below = RANKS[target] < RANKS[room] or (RANKS[target] == 0 and target == "errors")
            assert below, (
                f"{path.relative_to(ROOT)}:{line}: {room} (rank {RANKS[room]}) imports {target} (rank {RANKS[target]})"
            )


def test_every_room_has_its_rank_and_the_docs_name_it():
    rooms = {
        p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name[0] != "_")
    }
    rooms -= {"__init__"}
    rooms |= {"__main__"}
    assert rooms == set(RANKS) - {SETTINGS}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert all(f"{room}.py" in text or f"{room}/" in text for room in rooms - {"__main__"})


def test_pruning_knows_nothing_of_what_it_is_used_for():
    for path in (PACKAGE / "pruning").glob("*.py"):
        assert {target for target, _ in imports(path)} <= {"pruning", "types", "shapes", "errors", "registry"}


def test_importing_lth_loads_nothing_heavy(run_command):
    code = """
import sys, lth
heavy = {"mujoco", "metaworld", "matplotlib", "gymnasium", "jax", "flax", "torch"} & set(sys.modules)
assert not heavy, heavy

import lth.config
assert "jax" not in sys.modules

# Pruning needs JAX, NumPy and optax alone. None in sys.modules is what cannot be imported.
left_out = "gymnasium mujoco metaworld matplotlib pydantic pydantic_core rich flax safetensors yaml".split()
there = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in (*left_out, "lth")}
sys.modules.update(dict.fromkeys(left_out))
import lth
import jax, optax
import lth.pruning.structure, lth.sparse
from lth.pruning.schedules import prune_at, rigl
params = {name: {"kernel": jax.random.normal(jax.random.key(i), (8, 8))} for i, name in enumerate("ab")}
loss = lambda params, x: ((x @ params["a"]["kernel"] @ params["b"]["kernel"]) ** 2).mean()
mask = lth.prune(params, 0.5, "taylor", loss=loss, batches=[jax.numpy.ones((4, 8))])
assert lth.compute_sparsity(mask) == lth.compute_sparsity(lth.prune_kernels_by_magnitude(params, 0.5)) == 0.5
assert lth.compute_sparsity(lth.shuffled_mask(mask, params, jax.random.key(0))) == 0.5
optimizer = lth.keep_pruned_at_zero(optax.adam(1e-3))
state = lth.set_mask(optimizer.init(params), mask, params)
optimizer.update(jax.grad(loss)(params, jax.numpy.ones((4, 8))), state, params)
print(lth.layers(params))
lth.ReplayBuffer, lth.load_mask, lth.prune_agent, lth.shrink, rigl(mask, every=1, until=2), prune_at(mask, 0.9, at=[1])
try:
    lth.load
except ModuleNotFoundError as error:
    assert "lth.load needs pydantic, which is not installed; `pip install lth`" in str(error), error
else:
    raise AssertionError("nothing is left out")
for name in left_out:
    del sys.modules[name]
sys.modules.update(there)

import lth
from lth import prune_kernels_by_gradient_saliency, load
heavy = {"mujoco", "metaworld", "matplotlib", "torch", "stable_baselines3"} & set(sys.modules)
assert not heavy, heavy
assert set(lth.__all__) <= set(dir(lth))
for name in lth.__all__:
    getattr(lth, name)
"""
    done = run_command("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_every_public_function_says_what_it_does():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def test_every_planted_fault_still_has_its_line(monkeypatch):
    # benchmarks/planted_faults.py takes half an hour, so that a line that moved would be noticed late.
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    faults = runpy.run_path(str(ROOT / "benchmarks" / "planted_faults.py"))["FAULTS"]
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for name, fault in faults.items():
        assert sum(source.count(fault.old) for source in sources) == 1, name
        assert {f"test_{test}" for test in fault.tests.split()} <= tests, name
