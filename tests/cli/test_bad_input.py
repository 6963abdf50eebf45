"""What is broken or hostile is refused by name, runs nothing, and leaves what existed as it was.

Every file here is made from the bytes of a real run. A bad file has to end in InputError: no other exception, no file
accepted, no byte on the disk changed.
"""

import argparse
import collections
import copyreg
import datetime
import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import struct
import types

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import yaml
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from helpers.small import ROOT
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lth
from lth import envs
from lth.cli import main
from lth.config import Config, Sparsity, parse_config
from lth.envs.probe import look
from lth.errors import InputError
from lth.experiment import journal, lottery, masking, records, store
from lth.experiment.backend import BACKEND
from lth.experiment.build import dense_spec, mask_spec, ticket_spec
from lth.experiment.options import RunOptions
from lth.experiment.tasks import TASKS
from lth.experiment.tidy import TIDY_FILE
from lth.pickles import read_pickle
from lth.pruning.prune import CHECKS
from lth.replay import ReplayBuffer, sample_rows, unpack_rows

TINY = {
    "tasks": ["Pendulum-v1"],
    "seeds": [0],
    "training": {"env_steps": 300, "start_steps": 100, "segment_steps": 100, "batch_size": 16},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "evaluation": {"every": 300, "episodes": 1, "last_episodes": 1},
    "pruning": {"sparsity": 0.5, "rewind_steps": 100, "num_gradient_batches": 2, "gradient_batch_size": 16},
}
HALF = Sparsity(actor=0.5, critic=0.5)
KERNEL = "actor_params/layer_0/kernel"  # float32[3, 8]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real dense run with its rewind point 100, and its magnitude mask, below one output directory."""
    root = tmp_path_factory.mktemp("trained")
    spec = dense_spec(parse_config(TINY), "Pendulum-v1", 0)
    lottery.train_dense(root, spec, RunOptions((100,)))
    lottery.make_mask(
        root, mask_spec(parse_config(TINY), dense_spec(parse_config(TINY), "Pendulum-v1", 0), "magnitude", HALF)
    )
    return root


def copy_of(trained, place):
    """Copy the run, to be damaged; returns the paths and specs that tests need."""
    root = place / "results"
    shutil.copytree(trained, root)
    config = parse_config({**TINY, "output_dir": str(root)})
    dense = dense_spec(config, "Pendulum-v1", 0)
    magnitude, taylor, random = (
        mask_spec(config, dense_spec(config, "Pendulum-v1", 0), method, HALF)
        for method in ("magnitude", "taylor", "random")
    )
    run = root / dense.path
    return types.SimpleNamespace(
        root=root,
        config=config,
        dense=dense,
        taylor=taylor,
        random=random,
        ticket=ticket_spec(config, dense_spec(config, "Pendulum-v1", 0), magnitude),
        run=run,
        checkpoint=journal.checkpoint_file(run),
        buffer=journal.replay_file(run),
        mask=journal.last_file(root, magnitude),
    )


@pytest.fixture
def results(trained, tmp_path):
    """A copy of the run for one test."""
    return copy_of(trained, tmp_path)


@pytest.fixture(scope="module")
def sandbox(trained, tmp_path_factory):
    """A copy of the run for tests that damage it hundreds of times."""
    return copy_of(trained, tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="module")
def agent(trained):
    """The trained agent and its replay buffer."""
    (run,) = trained.glob("Pendulum-v1/seed0/dense-*")
    return lth.load(run).agent


@pytest.fixture
def tiny_yaml(results, tmp_path):
    """The config of the run as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "output_dir": str(results.root)}))
    return path


def contents(folder):
    """Return the bytes of every file below a folder, and every folder, by path."""
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def checksum_file(path):
    return path.with_name(path.name + ".sha256")


def put(path, data, checksum="removed"):
    """Write a file; its checksum is removed, rewritten to fit, or kept as it was."""
    path.write_bytes(data)
    if checksum == "removed":
        checksum_file(path).unlink(missing_ok=True)
    elif checksum == "rewritten":
        checksum_file(path).write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")


def refused(call, path, words):
    """Assert that a call ends in an InputError that names the file and says all the words; returns what else it says."""
    with pytest.raises(InputError) as raised:
        call()
    message = str(raised.value)
    assert str(path) in message, message
    message = message.replace(str(path), "<it>")  # pytest's folders are named like the tests: they may hold the words
    for word in words:
        assert word in message, message
    assert not re.search(r"\b_[A-Z]", message), f"{message} speaks of what only the source knows"
    return message


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints.


def split(data):
    """Take a safetensors file apart: the header, and the bytes of the arrays."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join(header, body):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + body


def with_text(text):
    """Replace the JSON text of the metadata."""

    def damage(good):
        header, body = split(good)
        header["__metadata__"]["lth"] = text
        return join(header, body)

    return damage


def with_metadata(**changes):
    def damage(good):
        metadata = json.loads(split(good)[0]["__metadata__"]["lth"])
        return with_text(json.dumps({**metadata, **changes}))(good)

    return damage


def with_settings(**changes):
    """Change the agent's settings, which are part of the metadata."""

    def damage(good):
        metadata = json.loads(split(good)[0]["__metadata__"]["lth"])
        return with_metadata(sac={**metadata["sac"], **changes})(good)

    return damage


def with_entry(**fields):
    """Change what the header says of one array."""

    def damage(good):
        header, body = split(good)
        header[KERNEL].update(fields)
        return join(header, body)

    return damage


def with_array(name, change):
    """Put an array in the place of another, or what a function makes of it (None: leave it out)."""

    def damage(good):
        arrays = safetensors.numpy.load(good)
        arrays[name] = change(arrays[name]) if callable(change) else change
        kept = {name: array for name, array in arrays.items() if array is not None}
        return safetensors.numpy.save(kept, split(good)[0]["__metadata__"])

    return damage


def first(value):
    """Replace the first element of an array."""
    return lambda array: np.concatenate([[value], array.ravel()[1:]]).reshape(array.shape).astype(array.dtype)


def flipped(data, offset=-100):
    return data[:offset] + bytes([data[offset] ^ 0x40]) + data[offset:][1:]


NOT_OURS = ["is not a checkpoint of lth", "Check the path"]
ALTERED = ["altered or truncated", "SHA-256"]
UNUSABLE = "invalid metadata"

CHECKPOINTS = {
    # name: (the damage, whose checksum is made to fit; what is said)
    "empty": (lambda good: b"", NOT_OURS),
    "cut in the header's length": (lambda good: good[:5], NOT_OURS),
    "cut after the header's length": (lambda good: good[:8], NOT_OURS),
    "cut in the header": (lambda good: good[:1000], NOT_OURS),
    "cut in the arrays": (lambda good: good[: len(good) * 9 // 10], NOT_OURS),
    "last byte missing": (lambda good: good[:-1], NOT_OURS),
    "a byte too many": (lambda good: good + b"\0", NOT_OURS),
    "header length absurd": (lambda good: b"\xff" * 8 + good[8:], NOT_OURS),
    "header of 99 MB": (lambda good: struct.pack("<Q", 99_000_000) + good[8:], NOT_OURS),
    "header of nothing": (lambda good: struct.pack("<Q", 0) + good[8:], NOT_OURS),
    "header nested 200000 deep": (lambda good: struct.pack("<Q", 200_000) + b"[" * 200_000, NOT_OURS),
    "header no JSON": (lambda good: good[:8] + b"x" + good[9:], NOT_OURS),
    "offsets outside": (with_entry(data_offsets=[0, 2**60]), NOT_OURS),
    "offsets the wrong way": (with_entry(data_offsets=[96, 0]), NOT_OURS),
    "shape that overflows": (with_entry(shape=[2**62, 2**62]), NOT_OURS),
    "unknown type": (with_entry(dtype="F7"), NOT_OURS),
    "bfloat16": (with_entry(dtype="BF16", shape=[3, 16]), NOT_OURS),
    "no metadata": (lambda good: safetensors.numpy.save(safetensors.numpy.load(good)), NOT_OURS),
    "metadata no JSON": (with_text("{"), NOT_OURS),
    "metadata a list": (with_text("[]"), NOT_OURS[:1]),
    "metadata nested 100000 deep": (with_text("[" * 100_000), NOT_OURS[:1]),
    "another program's": (lambda good: safetensors.numpy.save({"w": np.zeros(2)}, {"format": "pt"}), NOT_OURS),
    "a pickle": (lambda good: pickle.dumps({"actor": np.ones(3)}), NOT_OURS),
    "wrong format tag": (with_metadata(format="lth-sac-99"), ["'lth-sac-99'", "'lth-sac-1'"]),
    "observation size absurd": (with_metadata(observation_dim=10**12), [UNUSABLE, "1000000000000"]),
    "action size negative": (with_metadata(action_dim=-1), [UNUSABLE, "-1"]),
    "action size a truth value": (with_metadata(action_dim=True), [UNUSABLE, "True"]),
    "another observation size": (with_metadata(observation_dim=4), [KERNEL, "[3, 8]", "[4, 8]"]),
    "hidden sizes absurd": (with_settings(actor_hidden=[10**9] * 2), ["actor_", "1000000000"]),
    "hidden sizes beyond int64": (with_settings(actor_hidden=[10**30]), ["actor_"]),
    "hidden size negative": (with_settings(actor_hidden=[-8, 8]), [UNUSABLE, "actor_hidden"]),
    "a layer too many": (with_settings(actor_hidden=[8, 8, 8]), ["no array 'actor_params/layer_2/bias'"]),
    "unknown setting": (with_settings(gamma=0.9), [UNUSABLE, "gamma"]),
    "temperature beyond float32": (with_settings(initial_alpha=1e300), ["initial_alpha"]),
    "no settings": (with_metadata(sac=None), [UNUSABLE, "SACConfig"]),
    "about not a dict": (with_metadata(about=[]), [UNUSABLE, "about"]),
    "array missing": (with_array(KERNEL, None), [f"no array {KERNEL!r}"]),
    "array too many": (with_array("stowaway", np.zeros(3)), ["'stowaway'"]),
    "wrong shape": (with_array(KERNEL, np.zeros((8, 3), "f4")), [KERNEL, "float32[8, 3]", "float32[3, 8]"]),
    "wrong type": (with_array(KERNEL, np.zeros((3, 8), "f8")), [KERNEL, "float64[3, 8]", "float32[3, 8]"]),
    "read as integers": (with_entry(dtype="I32"), [KERNEL, "int32[3, 8]", "float32[3, 8]"]),
    "NaN in a weight": (with_array(KERNEL, first(np.nan)), [KERNEL, "NaN or infinity"]),
    "infinity in a moment": (
        with_array("critic_opt/inner/0/nu/q1/layer_0/kernel", first(np.inf)),
        ["'critic_opt/inner/0/nu/q1/layer_0/kernel'", "NaN or infinity"],
    ),
    "NaN in the normaliser": (
        with_array("normalizer/variance", first(np.nan)),
        ["'normalizer/variance'", "NaN or infinity"],
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(case, results):
    damage, words = CHECKPOINTS[case]
    put(results.checkpoint, damage(results.checkpoint.read_bytes()), "rewritten")
    before = contents(results.root)
    refused(lambda: lth.load(results.run), results.checkpoint, words)
    refused(lambda: lottery.make_mask(results.root, results.random), results.checkpoint, words)
    assert contents(results.root) == before


@pytest.mark.parametrize(
    ("damage", "checksum", "words"),
    [
        (flipped, "kept", ALTERED),
        (lambda good: b"", "kept", ALTERED),
        (lambda good: good[: len(good) // 2], "kept", ALTERED),
        (lambda good: good + b"\0\0", "kept", ALTERED),
        (lambda good: good, "removed", ["no checksum", "checkpoint.safetensors.sha256", "incomplete"]),
    ],
    ids=["a flipped bit", "empty", "half", "longer", "no checksum"],
)
def test_altered_checkpoints(damage, checksum, words, results):
    put(results.checkpoint, damage(results.checkpoint.read_bytes()), checksum)
    before = contents(results.root)
    refused(lambda: lth.load(results.run), results.checkpoint, words)
    refused(lambda: lottery.make_mask(results.root, results.random), results.checkpoint, words)
    assert contents(results.root) == before


def test_a_good_checkpoint_taken_apart_and_joined_is_read(results):
    before = lth.load(results.run).agent.state.params["actor"]
    good = results.checkpoint.read_bytes()
    for damage in (lambda good: join(*split(good)), with_metadata(), with_settings(), with_array(KERNEL, np.copy)):
        put(results.checkpoint, damage(good), "rewritten")
        after = lth.load(results.run).agent.state.params["actor"]
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))


def test_a_deep_checkpoint_is_refused_before_its_network_is_built(results, run_command):
    put(results.checkpoint, with_settings(actor_hidden=[8] * 20_000)(results.checkpoint.read_bytes()), "rewritten")
    program = f"""
import pathlib, resource, sys
from lth.algorithms.checkpoint import load_agent
from lth.errors import InputError
resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
try:
    load_agent(pathlib.Path({str(results.checkpoint)!r}))
except InputError as error:
    print("refused:", error)
"""
    done = run_command("-c", program)
    assert done.returncode == 0, f"20000 layers took more than 8 s, or failed: {done.returncode} {done.stderr[-300:]}"
    assert done.stdout.startswith("refused:")
    assert str(results.checkpoint) in done.stdout


@pytest.mark.parametrize(
    ("checksum", "words"),
    [(b"", "altered or truncated"), (b"\xff\xfe", "cannot be read"), (b"0" * 64, "altered or truncated"), (None, "")],
    ids=["empty", "no text", "another", "a folder"],
)
def test_bad_checksums(checksum, words, results):
    for path, load in (
        (results.checkpoint, lambda: lth.load(results.run)),
        (results.mask, lambda: store.load_mask(results.mask)),
        (results.buffer, lambda: store.load_replay_buffer(results.run)),
    ):
        checksum_file(path).unlink()
        if checksum is None:
            checksum_file(path).mkdir()
        else:
            checksum_file(path).write_bytes(checksum)
        refused(load, path, [words])


def test_the_advice_about_a_checksum_can_be_followed(results):
    # A checkpoint needs its checksum, so to delete that cannot be what helps; of a mask it is.
    for path in (results.checkpoint, results.mask):
        put(path, flipped(path.read_bytes()), "kept")
    message = refused(lambda: lth.load(results.run), results.checkpoint, ALTERED)
    assert "delete checkpoint.safetensors.sha256" not in message
    assert "delete mask.pkl.sha256" in refused(lambda: store.load_mask(results.mask), results.mask, ALTERED)


@pytest.mark.parametrize("name", ["checkpoint", "mask", "buffer"])
def test_a_folder_in_the_place_of_a_file(name, results):
    path = getattr(results, name)
    path.unlink()
    path.mkdir()
    calls = {
        "checkpoint": lambda: lth.load(results.run),
        "mask": lambda: store.load_mask(path),
        "buffer": lambda: store.load_replay_buffer(results.run),
    }
    refused(calls[name], path, ["directory"])


# ---------------------------------------------------------------------------------------------------------------------
# Pickles: what they are made of.

HERE = types.SimpleNamespace()
"""Stands in a tree where `pickled` puts a call."""


def pickled(tree, protocol, *reduction):
    """Pickle a tree; in the place of HERE the pickle calls a function with arguments, as __reduce__ has it."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol)
    pickler.dispatch_table = {types.SimpleNamespace: lambda _: reduction}
    pickler.dump(tree)
    return file.getvalue()


def text(string):
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def entry(value, protocol=4):
    """Write the pickle {"actor": value, "critic": {}} by hand."""
    return b"\x80" + bytes([protocol]) + b"(" + text("actor") + value + text("critic") + b"}d."


def call(module, name, *arguments):
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def array(shape=b"K\x01\x85", code="f4", data=b"C\x04\0\0\x80\x3f", state=b"", first=b""):
    """Write one array by hand, as NumPy does up to protocol 4.

    Args:
        shape: what makes the shape.
        code: the type.
        data: what makes the bytes.
        state: what changes the type once it is made.
        first: what else is made before, and put into the memo; in the place of arguments that mean nothing.
    """
    empty = first or b"cnumpy\nndarray\nK\x00\x85C\x01b"
    dtype = call("numpy", "dtype", text(code)) + state
    return call("numpy._core.multiarray", "_reconstruct", empty) + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def memo(index):
    return b"r" + struct.pack("<I", index)


def again(index):
    return b"j" + struct.pack("<I", index)


DOUBLED = again(39)


def doubling():
    """Write a tuple of two tuples of two tuples...: short in the file, and 2**40 long for whoever walks it (DOUBLED)."""
    levels = [b"K\x01\x85"] + [again(level) * 2 + b"\x86" for level in range(39)]
    return b"".join(level + memo(index) for index, level in enumerate(levels))


def doubling_dicts():
    """Write the same of dicts."""
    levels = [b"}"] + [b"}(" + b"".join(text(name) + again(level) for name in "ab") + b"u" for level in range(39)]
    return b"}(" + b"".join(text(str(i)) + level + memo(i) for i, level in enumerate(levels)) + b"u"


MEGABYTE = b"B" + struct.pack("<I", 1_000_000) + b"\0\0\x80\x3f" * 250_000


def many_times(count, shared):
    """Write a megabyte, and name it `count` times: the array that holds it, or the bytes in an array of their own."""
    shape = b"J" + struct.pack("<i", 250_000) + b"\x85"
    one = array(shape, data=MEGABYTE) + memo(0) if shared == "array" else array(shape, data=MEGABYTE + memo(0))
    more = again(0) if shared == "array" else array(shape, data=again(0))
    return b"}(" + text("first") + one + b"".join(text(f"{i}") + more for i in range(count)) + b"u"


def shell(marker):
    return f"touch {marker}"


def python(marker):
    return f"open({marker!r}, 'w').close()"


def system(protocol):
    """Call os.system in the place of a network of the critic, in the middle of a good mask."""
    return lambda tree, marker: pickled(
        {**tree, "critic": {**tree["critic"], "q1": HERE}}, protocol, os.system, (shell(marker),)
    )


def through_numpy_load(tree, marker):
    inner = pathlib.Path(marker + ".npy")
    inner.write_bytes(pickled(HERE, 4, os.system, (shell(marker),)))
    return entry(call("numpy", "load", text(str(inner)), b"N", b"\x88"))


def tuple_of_map(function, argument):
    """Call a function by making tuple(map(function, (argument,))), without any REDUCE."""
    return b"cbuiltins\ntuple\ncbuiltins\nmap\n" + function + argument + b"\x85\x86\x81\x85\x81"


def before_the_mask(tree, marker):
    """Call, drop the result, and go on with a mask that is good."""
    return b"\x80\x02" + call("posix", "system", text(shell(marker))) + b"0" + pickle.dumps(tree, 2)[2:]


CODE = {
    # name: (the pickle, what is said); each of these creates the marker when Python's own pickle reads it
    **{f"os.system, protocol {protocol}": (system(protocol), ["posix.system"]) for protocol in range(6)},
    "os.system and nothing else": (
        lambda tree, marker: pickled(HERE, 4, os.system, (shell(marker),)),
        ["posix.system"],
    ),
    "os.system before a good mask": (before_the_mask, ["posix.system"]),
    "os.system in a key": (
        lambda tree, marker: b"\x80\x04}" + call("posix", "system", text(shell(marker))) + b"}s.",
        ["posix.system"],
    ),
    "os.system in a list": (
        lambda tree, marker: pickled([tree, HERE], 4, os.system, (shell(marker),)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "eval by GLOBAL": (lambda tree, marker: entry(call("builtins", "eval", text(python(marker)))), ["builtins.eval"]),
    "eval by STACK_GLOBAL": (
        lambda tree, marker: entry(text("builtins") + text("eval") + b"\x93(" + text(python(marker)) + b"tR"),
        ["builtins.eval"],
    ),
    "eval by Python 2's name": (
        lambda tree, marker: entry(call("__builtin__", "eval", text(python(marker))), 2),
        ["__builtin__.eval"],
    ),
    "exec": (lambda tree, marker: entry(call("builtins", "exec", text(python(marker)))), ["builtins.exec"]),
    "INST": (lambda tree, marker: entry(b"(" + text(shell(marker)) + b"iposix\nsystem\n"), ["INST"]),
    "OBJ": (lambda tree, marker: entry(b"(cposix\nsystem\n" + text(shell(marker)) + b"o"), ["posix.system"]),
    "NEWOBJ": (lambda tree, marker: entry(tuple_of_map(b"cposix\nsystem\n", text(shell(marker)))), ["builtins.tuple"]),
    "getattr of an array's method": (
        lambda tree, marker: pickled({**tree, "critic": HERE}, 4, np.ones(3).tofile, (marker,)),
        ["builtins.getattr"],
    ),
    "a method by its dotted name": (
        lambda tree, marker: entry(
            text("numpy") + text("ndarray.tofile") + b"\x93" + array() + text(marker) + b"\x86R"
        ),
        ["numpy.ndarray.tofile"],
    ),
    "numpy.load": (through_numpy_load, ["numpy.load"]),
    "numpy's runstring": (
        lambda tree, marker: entry(call("numpy.testing._private.utils", "runstring", text(python(marker)), b"}")),
        ["numpy.testing._private.utils.runstring"],
    ),
}


@pytest.mark.parametrize("case", CODE)
def test_no_code_of_a_pickle_runs(case, results, tmp_path):
    make, words = CODE[case]
    (tmp_path / "markers").mkdir()
    marker = tmp_path / "markers" / "ran"
    data = make(pickle.loads(results.mask.read_bytes()), str(marker))
    put(results.mask, data)
    put(results.buffer, data)
    before = contents(tmp_path)
    refused(lambda: store.load_mask(results.mask), results.mask, words)
    refused(lambda: store.file_mask(results.mask, "file"), results.mask, words)
    refused(lambda: lottery.train_ticket(results.root, results.ticket), results.mask, words)
    refused(lambda: store.load_replay_buffer(results.run), results.buffer, words)
    refused(lambda: lth.load(results.run), results.buffer, words)
    refused(lambda: lottery.make_mask(results.root, results.taylor), results.buffer, words)
    assert not marker.exists()
    assert contents(tmp_path) == before
    pickle.loads(data)
    assert marker.exists(), "the payload is a dud, so that nothing was tested"


@pytest.mark.parametrize("code", [200, 1000, 100_000])
def test_no_registered_extension_of_a_pickle_runs(code, results, tmp_path):
    (tmp_path / "markers").mkdir()
    marker = tmp_path / "markers" / "ran"
    copyreg.add_extension("posix", "system", code)
    try:
        data = pickled({"actor": HERE, "critic": {}}, 2, os.system, (shell(marker),))
        assert b"posix" not in data
        put(results.mask, data)
        refused(lambda: store.load_mask(results.mask), results.mask, ["EXT"])
        assert not marker.exists()
        pickle.loads(data)
        assert marker.exists()
    finally:
        copyreg.remove_extension("posix", "system", code)
        copyreg.clear_extension_cache()


CHILD = """
import pathlib, pickle, resource, sys, tracemalloc
import numpy
from lth.errors import InputError
from lth.files import load_pickle

resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
tracemalloc.start()
try:
    load_pickle(pathlib.Path(sys.argv[1]), "the mask")
    print("accepted")
except InputError as error:
    print("refused:", error)
print("megabytes:", tracemalloc.get_traced_memory()[1] // 1_000_000)
again = pickle.loads(pickle.dumps(numpy.ones(3), protocol=5))
assert again.sum() == 3 and numpy.dtype("f4").itemsize == 4
"""

POINTER = b"\x96\x08\0\0\0\0\0\0\0AAAAAAAA"  # a bytearray that NumPy takes for a pointer
FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
OBJECT_INSIDE = (
    b"\x89\x88\x87R(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + call("numpy", "dtype", text("O"))
) + b"K\x00\x86sK\x08K\x01K\x00tb"
"""Arguments and state of a numpy.dtype that holds an object and says that it holds none."""

EXHAUSTING = {
    "an object array over raw bytes": call("numpy", "ndarray", b"K\x01\x85", call("numpy", "dtype", text("O")), POINTER)
    + b"K\x00K\x01s",
    "a type that hides an object": call(
        "numpy._core.numeric",
        "_frombuffer",
        POINTER,
        b"cnumpy\ndtype\n" + text("V8") + OBJECT_INSIDE,
        b"K\x01\x85",
        text("C"),
    )
    + b"K\x00K\x01\x85s",
    "numpy's function renamed": FROMBUFFER + b"N}" + text("__qualname__") + text("system") + b"s\x86b",
    "numpy's function's defaults": FROMBUFFER + b"N}" + text("__defaults__") + b"N\x85s\x86b",
    "dicts that double 40 times": doubling_dicts(),
    "a key that doubles 40 times": array(first=doubling()) + text("more") + b"}" + DOUBLED + b"K\x00s",
    "a key 500000 tuples deep": b"})" + b"\x85" * 500_000 + b"K\x00s",
    "a shape that doubles 40 times": array(DOUBLED, first=doubling()),
    "a type that doubles 40 times": array(first=doubling()).replace(text("f4"), DOUBLED),
    "a function's name that doubles 40 times": array(first=doubling()) + text("more") + DOUBLED + text("x") + b"\x93",
    "a codec that doubles 40 times": array(first=doubling())
    + text("more")
    + call("_codecs", "encode", text("a"), DOUBLED),
    "a shape of 5000 long numbers": array(
        b"(\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000 + memo(0) + again(0) * 4999 + b"t"
    ),
    "punycode of 60000 letters": call(
        "_codecs", "encode", text("".join(chr(0x4E00 + i * 7919 % 20_000) for i in range(60_000))), text("punycode")
    ),
    "an array named 600 times": many_times(600, "array"),
    "the bytes of an array named 600 times": many_times(600, "bytes"),
}


@pytest.mark.parametrize("case", EXHAUSTING)
def test_a_pickle_neither_crashes_nor_fills_the_machine(case, tmp_path, run_command):
    path = tmp_path / "mask.pkl"
    path.write_bytes(entry(EXHAUSTING[case], 5))
    done = run_command("-c", CHILD, path, cwd=tmp_path)
    assert done.returncode == 0, f"ended with {done.returncode} (-11: crash, -9 or -24: too long) {done.stderr[-300:]}"
    if "600 times" not in case:  # those are dicts of arrays, if odd ones
        assert done.stdout.startswith(f"refused: the mask '{path}'")
    assert int(done.stdout.split("megabytes:")[1]) < 200


# ---------------------------------------------------------------------------------------------------------------------
# Masks.

NO_PICKLE = ["is not a readable pickle"]


def with_leaf(value, name="kernel"):
    """Replace a leaf of the actor's first layer, float32[3, 8], by a value or what a function makes of it."""

    def damage(tree, marker):
        layer = tree["actor"]["layer_0"]
        layer[name] = value(layer["kernel"]) if callable(value) else value
        return pickle.dumps(tree)

    return damage


def with_tree(change):
    def damage(tree, marker):
        changed = change(tree)
        return pickle.dumps(tree if changed is None else changed)

    return damage


def without(network, layer, name):
    def damage(tree, marker):
        del tree[network][layer][name]
        return pickle.dumps(tree)

    return damage


def with_item(value, index=(1, 2)):
    def change(kernel):
        kernel[index] = value
        return kernel

    return with_leaf(change)


def nested(levels):
    return b"}" + (text("a") + b"}") * levels + b"s" * levels


def around_itself(tree):
    tree["actor"]["again"] = tree["actor"]


MASKS = {
    # name: (the damage, what is said)
    "empty": (lambda tree, marker: b"", NO_PICKLE),
    "one byte": (lambda tree, marker: pickle.dumps(tree)[:1], NO_PICKLE),
    "cut in the middle": (lambda tree, marker: pickle.dumps(tree)[:1000], NO_PICKLE),
    "last byte missing": (lambda tree, marker: pickle.dumps(tree)[:-1], NO_PICKLE),
    "text": (lambda tree, marker: b"these are not the weights\n", NO_PICKLE),
    "safetensors": (lambda tree, marker: safetensors.numpy.save({"a": np.ones(3)}), NO_PICKLE),
    "numpy's own format": (lambda tree, marker: b"\x93NUMPY\x01\x00v\x00{'descr'", NO_PICKLE),
    "protocol 99": (lambda tree, marker: b"\x80\x63" + pickle.dumps(tree)[2:], ["the mask"]),
    "a huge memo index": (lambda tree, marker: entry(array() + b"r\xff\xff\xff\x7f"), ["the mask"]),
    "a huge memo index in text": (lambda tree, marker: entry(array() + b"p2147483647\n"), ["the mask"]),
    "a memo entry that is not there": (lambda tree, marker: entry(b"hc"), NO_PICKLE),
    "a persistent id": (lambda tree, marker: entry(b"Psomething\n"), ["PERSID"]),
    "a binary persistent id": (lambda tree, marker: entry(text("something") + b"Q"), ["BINPERSID"]),
    "an extension that nobody registered": (lambda tree, marker: entry(b"\x82\xfe"), ["EXT1"]),
    "an out-of-band buffer": (
        lambda tree, marker: entry(b"\x97", 5),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a class instance": (
        lambda tree, marker: pickle.dumps({**tree, "critic": argparse.Namespace(a=1)}),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a class instance, protocol 0": (
        lambda tree, marker: pickle.dumps({**tree, "critic": argparse.Namespace(a=1)}, 0),
        ["copy_reg._reconstructor"],
    ),
    "an ordered dict": (with_tree(collections.OrderedDict), ["collections.OrderedDict"]),
    "a path": (with_leaf(pathlib.PurePosixPath("a")), ["PurePosixPath"]),
    "a date": (with_leaf(datetime.date(2026, 1, 1)), ["datetime.date"]),
    "a masked array": (with_leaf(np.ma.array), ["numpy.ma.core"]),
    "a random generator": (with_leaf(np.random.default_rng(0)), ["numpy.random"]),
    "numpy's ufuncs": (lambda tree, marker: entry(call("numpy.core._multiarray_umath", "add")), ["_multiarray_umath"]),
    "numpy.save": (lambda tree, marker: entry(call("numpy", "save", text(marker), array())), ["numpy.save"]),
    "a function of numpy": (lambda tree, marker: entry(b"cnumpy._core.numeric\n_frombuffer\n"), ["'actor'"]),
    "an array of objects": (
        with_leaf(lambda kernel: kernel.astype(object)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "an array of strings": (
        with_leaf(lambda kernel: kernel.astype(str)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "an array of bytes": (
        with_leaf(lambda kernel: kernel.astype("S3")),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "an array of dates": (
        with_leaf(lambda kernel: kernel.astype("M8[s]")),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "complex numbers": (
        with_leaf(lambda kernel: kernel.astype(complex)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "numbers of 16 bytes": (
        with_leaf(lambda kernel: kernel.astype(np.longdouble)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a record array": (
        with_leaf(np.zeros((3, 8), [("a", "f4")])),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a plain number": (with_leaf(1.0), ["was rejected", "only dicts of numeric NumPy arrays"]),
    "a string": (with_leaf("ones"), ["'kernel'", "str"]),
    "None": (with_leaf(None), ["'kernel'", "NoneType"]),
    "a list of lists": (
        with_leaf(lambda kernel: kernel.tolist()),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a set": (with_leaf({1.0}), ["was rejected", "only dicts of numeric NumPy arrays"]),
    "a list of masks": (
        with_tree(lambda tree: [tree["actor"], tree["critic"]]),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "an array instead of a dict": (
        with_tree(lambda tree: tree["actor"]["layer_0"]["kernel"]),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "a number as a key": (
        with_tree(lambda tree: {**tree, "actor": {**tree["actor"], 7: np.ones(2)}}),
        ["was rejected", "not a string"],
    ),
    "bytes as a key": (
        with_tree(lambda tree: {"actor": tree["actor"], b"critic": tree["critic"]}),
        ["was rejected", "not a string"],
    ),
    "a tuple as a key": (with_tree(lambda tree: {**tree, ("a", 1): np.ones(2)}), ["was rejected", "not a string"]),
    "None as a key": (with_tree(lambda tree: {**tree, None: np.ones(2)}), ["was rejected", "not a string"]),
    "no critic": (with_tree(lambda tree: {"actor": tree["actor"]}), ["['actor']", "each of actor, critic"]),
    "nothing": (with_tree(lambda tree: {}), ["[]", "each of actor, critic"]),
    "a third network": (with_tree(lambda tree: {**tree, "value": tree["actor"]}), ["'value'"]),
    "an array for a network": (with_tree(lambda tree: {**tree, "actor": np.ones((3, 8))}), ["each of actor, critic"]),
    "the mask of one network": (with_tree(lambda tree: tree["actor"]), ["'layer_0'", "each of actor, critic"]),
    "networks exchanged": (with_tree(lambda tree: {"actor": tree["critic"], "critic": tree["actor"]}), ["actor"]),
    "one half": (with_item(0.5), ["'layer_0/kernel'", "0.5", "(1, 2)", "0 (pruned)"]),
    "two": (with_item(2.0), ["'layer_0/kernel'", "2.0", "(1, 2)"]),
    "minus one": (with_item(-1.0), ["'layer_0/kernel'", "-1.0", "(1, 2)"]),
    "NaN": (with_item(np.nan), ["'layer_0/kernel'", "nan", "(1, 2)"]),
    "infinity": (with_item(np.inf), ["'layer_0/kernel'", "inf", "(1, 2)"]),
    "a subnormal number": (with_item(1e-40), ["'layer_0/kernel'", "(1, 2)"]),
    "almost one, in 8 bytes": (
        with_leaf(lambda kernel: np.full((3, 8), 1 - 1e-12)),
        ["'layer_0/kernel'", "0.999999999999", "(0, 0)"],
    ),
    "almost nothing, in 8 bytes": (with_leaf(np.full((3, 8), 1e-300)), ["'layer_0/kernel'", "1e-300"]),
    "an integer that overflows to 0": (with_leaf(np.full((3, 8), 2**32)), ["'layer_0/kernel'", "4294967296"]),
    "an integer that overflows to 1": (with_leaf(np.full((3, 8), 2**32 + 1)), ["'layer_0/kernel'", "4294967297"]),
    "truth values of 2": (
        with_leaf(np.frombuffer(bytes([0, 1, 2] * 8), np.bool_).reshape(3, 8)),
        ["a boolean array with values other"],
    ),
    "weights instead of a mask": (
        with_leaf(np.linspace(-0.3, 0.3, 24, dtype=np.float32).reshape(3, 8)),
        ["'layer_0/kernel'", "scores or weights"],
    ),
    "another shape": (with_leaf(np.ones((4, 8))), ["'layer_0/kernel'", "(4, 8)", "(3, 8)"]),
    "transposed": (with_leaf(lambda kernel: kernel.T.copy()), ["'layer_0/kernel'", "(8, 3)", "(3, 8)"]),
    "flat": (with_leaf(lambda kernel: kernel.ravel()), ["'layer_0/kernel'", "(24,)", "(3, 8)"]),
    "a single number": (with_leaf(np.float32(1.0)), ["'layer_0/kernel'", "()", "(3, 8)"]),
    "no elements": (with_leaf(np.ones((0, 8))), ["'layer_0/kernel'", "(0, 8)", "(3, 8)"]),
    "a leaf too few": (without("actor", "layer_0", "kernel"), ["actor", "'layer_0/kernel'"]),
    "a leaf too many": (with_leaf(np.ones(8), "scale"), ["'layer_0/scale'"]),
    "a layer too few": (without("critic", "q2", "output"), ["critic", "'q2/output/bias'"]),
    "a layer without leaves": (with_tree(lambda tree: tree["critic"].update(q3={})), ["critic", "q3"]),
    "a slash in a name": (
        with_tree(
            lambda tree: tree["actor"].update({f"layer_0/{k}": v for k, v in tree["actor"].pop("layer_0").items()})
        ),
        ["actor", "layer_0"],
    ),
    "a dict that holds itself": (with_tree(around_itself), ["the mask"]),
    "nested 900 deep": (lambda tree, marker: entry(nested(900)), ["more than 100 levels"]),
    "nested 100000 deep": (lambda tree, marker: entry(nested(100_000)), ["the mask"]),
    "an array of a petabyte": (
        lambda tree, marker: entry(call("numpy", "ndarray", b"\x8a\x07\0\0\0\0\0\0\x01\x85")),
        ["the mask"],
    ),
    "a petabyte out of 4 bytes": (
        lambda tree, marker: entry(
            call(
                "numpy",
                "ndarray",
                b"\x8a\x07\0\0\0\0\0\0\x01\x85",
                call("numpy", "dtype", text("f4")),
                b"C\x04\0\0\x80\x3f",
                b"K\x00",
                b"K\x00\x85",
            )
        ),
        ["the mask"],
    ),
    "a shape that its bytes do not have": (lambda tree, marker: entry(array(b"K\x05\x85")), ["was rejected", "(5,)"]),
    "a negative shape": (lambda tree, marker: entry(array(b"J\xff\xff\xff\xff\x85")), ["was rejected", "(-1,)"]),
    "a thousand dimensions": (lambda tree, marker: entry(array(b"(" + b"K\x01" * 1000 + b"t")), ["the mask"]),
    "another type's state": (
        lambda tree, marker: entry(array(state=b"(K\x03" + text("?") + b"NNNK\x02K\x01K\x00tb")),
        ["the mask"],
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_bad_masks(case, results, agent, tmp_path):
    damage, words = MASKS[case]
    (tmp_path / "markers").mkdir()
    put(results.mask, damage(pickle.loads(results.mask.read_bytes()), str(tmp_path / "markers" / "ran")))
    before = contents(tmp_path)
    refused(lambda: store.load_mask(results.mask, agent.state), results.mask, words)
    refused(lambda: lottery.train_ticket(results.root, results.ticket), results.mask, words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", [flipped, lambda good: good[:-10], lambda good: good + b"\0", lambda good: b""])
def test_altered_masks_and_buffers_with_their_checksum(damage, results):
    for path in (results.mask, results.buffer):
        put(path, damage(path.read_bytes()), "kept")
    before = contents(results.root)
    refused(lambda: store.load_mask(results.mask), results.mask, ALTERED)
    refused(lambda: lottery.train_ticket(results.root, results.ticket), results.mask, ALTERED)
    refused(lambda: store.load_replay_buffer(results.run), results.buffer, ALTERED)
    refused(lambda: lottery.make_mask(results.root, results.taylor), results.buffer, ALTERED)
    assert contents(results.root) == before


def names_of_numpy_1(data):
    """Rename NumPy's modules to what they were called before version 2 (and leave the frame out, whose length differs)."""
    data = data[:2] + data[11:] if data[2:3] == b"\x95" else data
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = name.replace(b"_core", b"core")
        data = data.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(old)]) + old).replace(name, old)
    return data


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("rename", [lambda data: data, names_of_numpy_1], ids=["numpy 2", "numpy 1"])
def test_good_pickles_of_other_programs_are_read(protocol, rename, results, agent):
    good = pickle.loads(results.mask.read_bytes())
    good["actor"]["layer_0"]["kernel"] = np.asfortranarray(good["actor"]["layer_0"]["kernel"])
    good["actor"]["layer_1"]["kernel"] = good["actor"]["layer_1"]["kernel"].astype(bool)
    good["critic"]["q1"]["layer_0"]["kernel"] = good["critic"]["q1"]["layer_0"]["kernel"].astype(">i8")
    put(results.mask, rename(pickle.dumps(good, protocol)))
    found = store.load_mask(results.mask, agent.state)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), found, good))
    saved = pickle.loads(results.buffer.read_bytes())
    put(results.buffer, rename(pickle.dumps(saved, protocol)))
    again = store.load_replay_buffer(results.run).save()
    assert saved.keys() - again.keys() == {"spec_sha256"}
    assert all((again[name] == saved[name]).all() for name in again)


@pytest.mark.parametrize("order", [b"\x88", b"\x89", b"K\x01", b"K\x00", b"K\x02", b"X\x01\0\0\0F", b"N"])
def test_the_order_of_an_array_is_read_as_numpy_reads_it(order):
    one = array(b"K\x02K\x03\x86", "u1", b"C\x06\x00\x01\x01\x00\x01\x00").replace(b"\x89", order)
    data = entry(one)
    if order in (b"K\x02", b"X\x01\0\0\0F", b"N"):
        with pytest.raises(InputError, match="neither C nor Fortran"):
            read_pickle(data)
    else:
        np.testing.assert_array_equal(read_pickle(data)["actor"], pickle.loads(data)["actor"])


# ---------------------------------------------------------------------------------------------------------------------
# Replay buffers.


def with_field(**fields):
    """Replace fields of the buffer by values, or by what functions make of them."""
    return lambda data: {**data, **{k: v(data[k]) if callable(v) else v for k, v in fields.items()}}


def with_row(name, row, value, dtype=np.float32):
    def change(field):
        field = field.astype(dtype)
        field[row] = value
        return field

    return with_field(**{name: change})


BUFFERS = {
    # name: (the damage: a dict to pickle, or bytes; what is said)
    "empty": (lambda data: b"", NO_PICKLE),
    "cut in the middle": (lambda data: pickle.dumps(data)[:5000], NO_PICKLE),
    "last byte missing": (lambda data: pickle.dumps(data)[:-1], NO_PICKLE),
    "a list": (lambda data: pickle.dumps(list(data.values())), ["was rejected", "only dicts of numeric NumPy arrays"]),
    "a class instance": (
        with_field(rewards=argparse.Namespace(a=1)),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "nothing": (lambda data: {}, ["no field 'observations'"]),
    "NaN in observations": (with_row("observations", 7, np.nan), ["'observations'", "row 7 ", "1 of 300"]),
    "NaN in one number of a row": (
        with_row("next_observations", (299, 2), np.nan),
        ["'next_observations'", "row 299 "],
    ),
    "NaN in actions": (with_row("actions", 0, np.nan), ["'actions'", "row 0 "]),
    "NaN in rewards": (with_row("rewards", slice(17, 20), np.nan), ["'rewards'", "row 17 ", "3 of 300"]),
    "NaN in terminated": (with_row("terminated", 3, np.nan), ["'terminated'", "row 3 "]),
    "infinity in rewards": (with_row("rewards", 250, np.inf), ["'rewards'", "row 250 "]),
    "minus infinity in observations": (with_row("observations", 42, -np.inf), ["'observations'", "row 42 "]),
    "infinite once it is float32": (with_row("observations", 17, 1e300, np.float64), ["'observations'", "row 17 "]),
    "terminated by half": (with_row("terminated", 3, 0.5), ["'terminated'", "other than 0 and 1"]),
    "terminated twice": (with_row("terminated", 3, 2), ["'terminated'", "other than 0 and 1"]),
    "an action above 1": (with_row("actions", 8, 1.5), ["'actions'", "[-1, 1]"]),
    "an action of -128 in int8": (with_row("actions", 8, -128, np.int8), ["'actions'", "[-1, 1]"]),
    **{
        f"no {name}": (lambda data, name=name: {k: v for k, v in data.items() if k != name}, [f"no field {name!r}"])
        for name in ("actions", "rewards", "terminated", "capacity", "position")
    },
    "fewer observations": (with_field(observations=lambda x: x[:10]), ["'observations'", "(10, 3)", "(300,)"]),
    "fewer rewards": (with_field(rewards=lambda x: x[:10]), ["(300, 3)", "(10,)"]),
    "more terminated": (with_field(terminated=np.zeros(301)), ["'terminated'", "(301,)", "(300,)"]),
    "shorter next observations": (with_field(next_observations=lambda x: x[:, :2]), ["(300, 2)", "(300, 3)"]),
    "flat observations": (with_field(observations=lambda x: x.ravel()), ["'observations'", "(900,)"]),
    "rewards in a column": (with_field(rewards=lambda x: x[:, None]), ["'rewards'", "(300, 1)"]),
    "one reward for all": (with_field(rewards=np.float32(1)), ["'rewards'"]),
    "objects": (with_field(actions=lambda x: x.astype(object)), ["was rejected", "only dicts of numeric NumPy arrays"]),
    "strings": (with_field(actions=lambda x: x.astype(str)), ["was rejected", "only dicts of numeric NumPy arrays"]),
    "a dict for a field": (with_field(actions=lambda x: {"a": x}), ["'actions'"]),
    "a list for a field": (
        with_field(rewards=lambda x: x.tolist()),
        ["was rejected", "only dicts of numeric NumPy arrays"],
    ),
    "capacity below its rows": (with_field(capacity=np.array(299)), ["capacity 299", "300"]),
    "capacity of nothing": (with_field(capacity=np.array(0)), ["capacity 0"]),
    "capacity negative": (with_field(capacity=np.array(-1)), ["capacity -1"]),
    "capacity NaN": (with_field(capacity=np.array(np.nan)), ["'capacity'"]),
    "capacity infinite": (with_field(capacity=np.array(np.inf)), ["'capacity'"]),
    "capacity with a fraction": (with_field(capacity=np.array(300.7)), ["capacity"]),
    "two capacities": (with_field(capacity=np.array([300, 300])), ["'capacity'"]),
    "position beyond its rows": (with_field(position=np.array(300)), ["position 300"]),
    "position negative": (with_field(position=np.array(-1)), ["position -1"]),
    "position NaN": (with_field(position=np.array(np.nan)), ["'position'"]),
    "position with a fraction": (with_field(position=np.array(0.5)), ["position"]),
    "position that a larger buffer cannot have": (
        with_field(capacity=np.array(400), position=np.array(0)),
        ["capacity 400", "position 0"],
    ),
}


@pytest.mark.parametrize("case", BUFFERS)
def test_bad_replay_buffers(case, results):
    damage, words = BUFFERS[case]
    damaged = damage(pickle.loads(results.buffer.read_bytes()))
    put(results.buffer, damaged if isinstance(damaged, bytes) else pickle.dumps(damaged))
    before = contents(results.root)
    refused(lambda: store.load_replay_buffer(results.run), results.buffer, words)
    refused(lambda: lth.load(results.run), results.buffer, words)
    refused(lambda: lottery.make_mask(results.root, results.taylor), results.buffer, words)
    assert contents(results.root) == before


OTHERS = {
    "another observation": {"observations": np.ones((100, 5)), "next_observations": np.ones((100, 5))},
    "another action": {"actions": np.zeros((100, 2))},
    "a capacity of 2**50": {"capacity": np.array(2**50)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_rewind_point_with_another_runs_buffer(case, results):
    path = journal.replay_file(results.run, 100)
    put(path, pickle.dumps({**pickle.loads(path.read_bytes()), **OTHERS[case]}))
    before = contents(results.root)
    refused(lambda: lottery.train_ticket(results.root, results.ticket), path, [])
    assert contents(results.root) == before


def test_a_missing_replay_buffer_names_the_path_and_the_command(results, agent):
    results.buffer.unlink()
    before = contents(results.root)
    words = ["No replay buffer found", "_01_train_dense.py", "lth run"]
    refused(lambda: store.load_replay_buffer(results.run), results.buffer, words)
    refused(lambda: lottery.make_mask(results.root, results.taylor), results.buffer, words)
    assert contents(results.root) == before
    loaded = lth.load(results.run).agent  # an agent can be used without its buffer, but not for gradients
    assert loaded.replay_buffer is None
    refused(lambda: lth.accumulate_gradient_statistics(loaded, loaded.replay_buffer), "replay_buffer.pkl", words)
    empty = ReplayBuffer(agent.replay_buffer.state._replace(size=jnp.int32(0)), 3)
    refused(lambda: lth.accumulate_gradient_statistics(agent, empty), "replay_buffer.pkl", words)


def test_a_missing_dense_run_names_the_path_and_the_command(results):
    shutil.rmtree(results.run)
    before = contents(results.root)
    words = ["no dense run", "Pendulum-v1, seed 0", "_01_train_dense.py", "lth run"]
    refused(lambda: lottery.make_mask(results.root, results.taylor), results.checkpoint, words)
    refused(lambda: lottery.train_ticket(results.root, results.ticket), results.checkpoint, words)
    refused(lambda: lth.load(results.run), results.run, ["there is no run at"])
    assert contents(results.root) == before


def test_a_missing_mask_names_the_path_and_the_command(results):
    results.mask.unlink()
    before = contents(results.root)
    words = ["there is no mask at", "_02_create_mask.py", "lth run"]
    refused(lambda: lottery.train_ticket(results.root, results.ticket), results.mask, words)
    assert contents(results.root) == before


def test_an_unfinished_run_and_a_file_for_a_run(results):
    results.checkpoint.unlink()
    refused(lambda: lth.load(results.run), results.run, ["checkpoint.safetensors", "checkpoint_0.safetensors"])
    refused(lambda: lth.load(results.mask), results.mask, ["is a file", "directory"])
    refused(lambda: lth.load(results.root), results.root, ["there is no run at", results.run.name])


# ---------------------------------------------------------------------------------------------------------------------
# The small files of a run.


@pytest.mark.parametrize(
    "damage",
    [b"", b"[]", b"[1]", b"null", b"3", b"{}", b'{"spec_version": 1, "stage": []}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "list", "list of 1", "null", "number", "no fields", "stage a list", "no text", "100000 deep"],
)
def test_bad_spec_files(damage, results, capsys):
    path = results.run / "spec.json"
    path.write_bytes(damage)
    before = contents(results.root)
    refused(lambda: records.spec_of(results.run), path, [])
    refused(lambda: journal.is_finished(results.root, results.dense), results.run, [])
    assert main(["eval", str(results.run), "--episodes", "1"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert str(path) in errors
    assert contents(results.root) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[: good.rindex(b",")],
        lambda good: good.replace(b"metric", b"name", 1),
        lambda good: good.replace(b"\n300,", b"\nmany,"),
        lambda good: good.replace(b"300,evaluation/return,-", b"300,evaluation/return,x"),
        lambda good: b"env_steps,metric,value\n\0\n",
        lambda good: b"\xff\xfe",
    ],
    ids=["empty", "cut", "another column", "no step", "no number", "a zero byte", "no text"],
)
def test_bad_metrics(damage, results):
    path = results.run / "metrics.csv"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert path.read_bytes() != good
    # The run counts as finished, so the same command does not make the file again: the folder has to go.
    refused(lambda: records.last_evaluation(results.run), path, ["delete"])
    path.unlink()
    refused(lambda: records.last_evaluation(results.run), path, ["delete"])


@pytest.mark.parametrize("damage", ["[1]", '{"total": "long"}', '{"total": null}', "[" * 100_000, "\0"])
def test_bad_timings_cost_no_more_than_the_estimate(damage, results, tiny_yaml, capsys):
    (results.run / "timings.json").write_text(damage)
    assert main(["run", str(tiny_yaml), "--dry-run"]) == 0
    assert "runs to do" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Settings.


def said(arguments, capsys, source=""):
    """Run a command that has to end with status 2 and an `error:`; returns what it said, but for where it read it."""
    assert main([str(word) for word in arguments]) == 2
    out, errors = capsys.readouterr()
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert out == ""
    return errors.replace(str(source), "<source>") if source else errors


SETTINGS = {
    # an override: what is said
    "pruning.sparsty=0.5": ["'pruning.sparsty'", "did you mean 'sparsity'?"],
    "trainin.env_steps=300": ["'trainin'", "did you mean 'training'?"],
    "training.env_step=300": ["'training.env_step'", "did you mean 'env_steps'?"],
    "sac.actor_lr=0.1": ["'sac.actor_lr'"],
    "pruning.sparsity={actr: 0.5, critic: 0.5}": ["actr", "did you mean 'actor'?"],
    "qqqq=1": ["'qqqq'", "tasks, seeds, output_dir"],
    "tasks=Pendulm-v1": ["'Pendulm-v1'", "did you mean 'Pendulum-v1'?"],
    "tasks=drawer-clse-v3": ["'drawer-clse-v3'", "did you mean 'drawer-close-v3'?"],
    "tasks=[Pendulum-v1, Pendulum-v0]": ["Pendulum-v0", "v1"],
    "tasks=CartPole-v1": ["'CartPole-v1'", "discrete actions"],
    "tasks=../../etc/passwd": ["'../../etc/passwd'"],
    "tasks=nosuchmodule:Ant-v5": ["nosuchmodule"],
    "tasks=[]": ["tasks", "empty"],
    "tasks=[Pendulum-v1, Pendulum-v1]": ["tasks", "'Pendulum-v1'", "more than once"],
    "pruning.methods=taylr": ["pruning.methods", "'taylr'", "did you mean 'taylor'?"],
    "pruning.methods=[taylor, wanda]": ["'wanda'", "magnitude, gradient, taylor, random, shuffled"],
    "pruning.methods=[taylor, taylor]": ["methods", "'taylor'", "more than once"],
    "pruning.methods=[]": ["methods", "empty"],
    "pruning.gradient_method=random": ["pruning.gradient_method", "'random'", "taylor"],
    "pruning.sparsity=1.5": ["pruning.sparsity", "1.5", "from 0 to 1"],
    "pruning.sparsity=-0.1": ["pruning.sparsity", "-0.1", "from 0 to 1"],
    "pruning.sparsity=80": ["pruning.sparsity", "got 80", "did you mean 0.8?"],
    "pruning.sparsity=abc": ["pruning.sparsity", "'abc'", "number"],
    "pruning.sparsity=true": ["pruning.sparsity", "boolean"],
    "pruning.sparsity={actor: true, critic: 0.5}": ["pruning.sparsity", "actor"],
    "pruning.sparsity=.nan": ["pruning.sparsity", "nan", "from 0 to 1"],
    "pruning.sparsity=.inf": ["pruning.sparsity", "inf", "from 0 to 1"],
    "pruning.sparsity=nan": ["pruning.sparsity", "nan"],
    "pruning.sparsity=null": ["pruning.sparsity"],
    "pruning.sparsity=[]": ["sparsity", "empty"],
    "pruning.sparsity=[0.5, 0.50]": ["sparsity", "0.5", "more than once"],
    "pruning.sparsity={actor: 0.5}": ["pruning.sparsity", "critic"],
    "pruning.sparsity={actor: 0.5, critic: 2}": ["critic", "2"],
    "pruning.rewind_steps=160": ["rewind_steps is 160", "nearest is 200"],
    "pruning.rewind_steps=110": ["rewind_steps is 110", "nearest is 100"],
    "pruning.rewind_steps=20": ["rewind_steps is 20", "nearest is 0"],
    "pruning.rewind_steps=300": ["rewind_steps is 300", "nearest is 200"],
    "pruning.rewind_steps=-100": ["pruning.rewind_steps", "-100"],
    "evaluation.every=250": ["evaluation.every is 250", "nearest is 300"],
    "evaluation.every=40": ["evaluation.every is 40", "nearest is 100"],
    "evaluation.episodes=0": ["evaluation.episodes", "greater than 0"],
    "training.num_envs=7": ["segment_steps is 100", "num_envs (7)", "nearest is 98"],
    "training.start_steps=300": ["start_steps is 300", "env_steps (300)"],
    "training.env_steps=3e9": ["training.env_steps", "less than 2147483648", "3e9"],
    "training={updates_per_step: 1e4, env_steps: 1000000, start_steps: 0}": [
        *("updates_per_step is 10000", "10,000,000,000 updates", "2,147,483,647", "lower it"),
    ],
    "td3.policy_delay=3000000000": ["td3.policy_delay", "less than 2147483648"],
    "dqn.target_every=3000000000": ["dqn.target_every", "less than 2147483648"],
    "training.env_steps=0": ["training.env_steps", "greater than 0"],
    "training.env_steps=many": ["training.env_steps", "'many'", "integer"],
    "training.env_steps=300.5": ["training.env_steps", "300.5"],
    "training.backend=sparse": ["training.backend", "'sparse'", "'dense'"],
    "training=fast": ["training", "'fast'"],
    "training.env_steps.x=3": ["training.env_steps"],
    "seeds=[0, 0]": ["seeds", "0 more than once"],
    "seeds=-1": ["seeds", "-1"],
    "seeds=3000000000": ["seeds", "3000000000"],
    "seeds=[]": ["seeds", "empty"],
    "seeds=one": ["seeds", "'one'", "integer"],
    "seeds=1:10": ["'1:10'", "70", "0-9 or range(10)"],
    "seeds=010": ["'010'", "read as 8", "octal; write 10."],
    "training.env_steps=0_300": ["'0_300'", "read as 192", "write 300."],
    "sac.tau=-1:30.5": ["'-1:30.5'", "-90.5"],
    "tasks=['007']": ["'007'"],
    "sac={tau: 007}": ["'007'", "write 7.", "in quotes"],
    "pruning.sparsity={actor: 0.5, actor: 0.9, critic: 0.5}": ["duplicate key 'actor'"],
    "tasks=&a [*a]": ["more than 100000 values", "aliases"],
    "sac.actor_hidden=[8, 0]": ["sac.actor_hidden", "greater than 0"],
    "sac.discount=1": ["sac.discount", "less than 1"],
    "sac.tau=.nan": ["sac.tau", "finite"],
    "output_dir=3": ["output_dir"],
    "=0.5": ["'=0.5'", "key=value"],
    ".=0.5": ["unknown key"],
    "training.=3": ["'training.'", "env_steps"],
    "tasks=[": ["tasks=[", "not valid YAML"],
    "tasks={a: [b": ["tasks={a: [b", "not valid YAML"],
    "tasks=!!python/object/apply:os.getcwd []": ["not valid YAML", "python/object/apply"],
    "tasks=2026-13-45": ["tasks=2026-13-45"],
    "seeds=0x_": ["seeds=0x_"],
    f"seeds={'9' * 5000}": ["seeds"],
    f"training.env_steps={'9' * 400}": ["training.env_steps"],
    f"tasks={'[' * 3000}": ["tasks="],
}


@pytest.mark.parametrize("override", SETTINGS, ids=lambda override: override[:60])
def test_bad_settings(override, results, tiny_yaml, capsys):
    before = contents(results.root)
    errors = said(["run", tiny_yaml, "--dry-run", override], capsys, f"{tiny_yaml} with {override}")
    for word in SETTINGS[override]:
        assert word in errors, errors
    assert contents(results.root) == before


CONFIGS = {
    "no YAML": (b"tasks: [a\nseeds: 0", ["not valid YAML", "line 2"]),
    "a tab": (b"training:\n\tenv_steps: 300", ["not valid YAML", "line 2"]),
    "a list": (b"- tasks\n- seeds\n", ["list", "keys and values"]),
    "a word": (b"Pendulum-v1", ["str", "keys and values"]),
    "two documents": (b"seeds: 0\n---\nseeds: 1\n", ["not valid YAML"]),
    "no text": (b"\xff\xfe\x00", ["cannot be read"]),
    "a zero byte": (b"tasks: a\0b", ["not valid YAML"]),
    "a number for a key": (b"1: 2\n", ["1", "keys should be strings"]),
    "a truth value for a key": (b"training: {on: 2}\n", ["training", "keys should be strings"]),
    "a list for a key": (b"? [a]\n: b\n", ["not valid YAML"]),
    "a base-60 number": (b"tasks: Pendulum-v1\nseeds: 1:10\n", ["'1:10' in line 2", "70", "0-9 or range(10)"]),
    "an octal number": (b"sac: {tau: 1, actor_hidden: [010]}", ["'010' in line 1", "write 10"]),
    "a call": (b"tasks: !!python/object/apply:os.system ['touch ran']", ["not valid YAML", "os.system"]),
    "an impossible date": (b"tasks: 2026-13-45", []),
    "an alias to itself": (b"tasks: &a [*a]", ["aliases"]),
    "an alias to nothing": (b"tasks: *a", ["not valid YAML"]),
    "nested 5000 deep": (b"tasks: " + b"[" * 5000, []),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_config_files(case, tmp_path, monkeypatch, capsys):
    data, words = CONFIGS[case]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    errors = said(["run", path, "--dry-run"], capsys, path)
    for word in ("<source>", *words):
        assert word in errors, errors
    assert contents(tmp_path) == {str(path): data}


def test_a_config_file_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "the config file 'absent.yaml' does not exist" in said(["run", "absent.yaml"], capsys)
    assert f"there is no config.yaml in '{tmp_path}'" in said(["run"], capsys)
    assert "lth run my.yaml" in said(["run"], capsys)
    assert "is a folder" in said(["run", tmp_path], capsys)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("inside", ["", "/a/b"])
@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["status"], ["report"]], ids=" ".join)
def test_an_output_folder_that_is_a_file(command, inside, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    before = contents(tmp_path)
    errors = said([*command, "tiny.yaml", f"output_dir=tiny.yaml{inside}"], capsys)
    assert f"output_dir 'tiny.yaml{inside}' is" in errors
    assert errors.endswith("is a file; choose a folder\n")
    with pytest.raises(InputError, match="is a file; choose a folder"):
        lth.run(Config(output_dir=f"tiny.yaml{inside}"))
    assert contents(tmp_path) == before


def test_a_setting_without_an_equals_sign(tiny_yaml, capsys):
    errors = said(["run", tiny_yaml, "training.env_steps", "--dry-run"], capsys)
    assert "training.env_steps" in errors
    assert "key=value" in errors


def test_a_layer_to_exclude_that_there_is_not(results, tiny_yaml, tmp_path, capsys):
    before = contents(results.root)
    errors = said(["run", tiny_yaml, "pruning.exclude=outptu", "pruning.methods=random"], capsys)
    for word in ("pruning.exclude", "'outptu'", "layer_0", "did you mean 'output'?"):
        assert word in errors
    assert contents(results.root) == before
    # It is found before a dense agent is trained for nothing.
    assert main(["run", str(tiny_yaml), "pruning.exclude=outptu", f"output_dir={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


def test_mistakes_in_a_process_of_its_own(results, tiny_yaml, tmp_path, run_command):
    before = contents(results.root)
    done = run_command("-m", "lth.cli", "run", tiny_yaml, "pruning.sparsty=0.5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tiny_yaml} with pruning.sparsty=0.5: unknown key 'pruning.sparsty'; " + (
        "did you mean 'sparsity'?\n"
    )
    put(results.checkpoint, flipped(results.checkpoint.read_bytes()), "kept")
    done = run_command("-m", "lth.cli", "eval", results.run, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: the checkpoint '{results.checkpoint}' was altered or truncated")
    assert done.stderr.count("\n") == 1
    put(results.checkpoint, before[str(results.checkpoint)], "kept")
    assert contents(results.root) == before


def test_a_hostile_mask_given_to_a_script(results, tiny_yaml, tmp_path, run_command):
    hostile = tmp_path / "from_the_internet.pkl"
    hostile.write_bytes(pickled({"actor": HERE, "critic": {}}, 4, os.system, (shell(tmp_path / "ran"),)))
    before = contents(tmp_path)
    done = run_command(ROOT / "scripts" / "_03_train_ticket.py", "--config", tiny_yaml, "--mask", hostile, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: the mask '{hostile}' was rejected: it calls posix.system")
    assert "Traceback" not in done.stderr
    after = contents(tmp_path)
    new = [path for path in after.keys() - before.keys() if not str(path).endswith(BACKEND)]  # what a folder settles on
    assert new == []
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("name", ["checkpoint", "mask", "buffer"])
def test_lth_run_over_damaged_files(name, results, tiny_yaml, capsys):
    path = getattr(results, name)
    put(path, path.read_bytes()[:-7], "kept")
    before = contents(results.root)
    arguments = ["run", tiny_yaml, f"pruning.methods={'taylor' if name == 'buffer' else 'magnitude'}"]
    if name == "checkpoint":
        arguments.append("pruning.sparsity=0.6")
    assert main([str(word) for word in arguments]) == 1
    errors = capsys.readouterr().err
    assert f"the {'replay buffer' if name == 'buffer' else name} '{path}' was altered or truncated" in errors
    after = contents(results.root)
    assert {place: after[place] for place in before} == before
    # What is new tells of the attempt: locks, attempts, logs, tasks, backend, the table, and the folders that they lie in.
    tables = ("table.csv", "runs.csv", "layers.csv", "inputs.csv", "overlap.csv", "returns.png")
    apart = {*records.CLOCK_FILES, "logs", BACKEND, TASKS, TIDY_FILE, *tables}
    assert all(
        data is False or apart & {*pathlib.Path(place).parts} for place, data in after.items() if place not in before
    )


# ---------------------------------------------------------------------------------------------------------------------
# NaN and infinity in gradients.


def poisoned(tree, path, value):
    """Return a tree of arrays with the first element of one leaf replaced."""

    def change(at, leaf):
        name = jax.tree_util.keystr(at, simple=True, separator="/")
        return leaf.at[(0,) * leaf.ndim].set(value) if name == path else leaf

    changed = jax.tree_util.tree_map_with_path(change, tree)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), changed, tree))
    return changed


def with_params(agent, network, path, value):
    field, name = ("targets", network.removeprefix("target_")) if network.startswith("target_") else ("params", network)
    trees = getattr(agent.state, field)
    return agent._replace(state=agent.state._replace(**{field: {**trees, name: poisoned(trees[name], path, value)}}))


def not_finite(agent, batch, key):
    """Say which leaves of the two gradients are not finite on a batch: {("critic", "q1/output/bias"), ...}."""
    found = set()
    for network, tree in zip(("actor", "critic"), lth.compute_gradients_from_batch(agent, batch, key=key), strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not np.isfinite(leaf).all():
                found.add((network, jax.tree_util.keystr(path, simple=True, separator="/")))
    return found


def drawn(buffer, key, number, size):
    """Return the batch that is drawn as the number-th, and the key of its noise."""
    index_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
    return unpack_rows(sample_rows(buffer.state, index_key, size), buffer.observation_dim), noise_key


def bad_gradients(agent, buffer, key, batches, first):
    """Assert that accumulation is refused, naming network, layer and first bad batch, and what to check."""
    bad = not_finite(agent, *drawn(buffer, key, first, 16))
    assert bad
    for earlier in range(first):
        assert not not_finite(agent, *drawn(buffer, key, earlier, 16))
    with pytest.raises(InputError) as raised:
        lth.accumulate_gradient_statistics(agent, buffer, batches, 16, key=key)
    message = str(raised.value)
    assert "NaN gradients" in message
    assert f"batch {first} of {batches}" in message
    named = {(network, layer) for network, layer in bad if f"of the {network} " in message and f"{layer!r}" in message}
    assert named, f"{message} names none of {sorted(bad)}"
    for check in ("checkpoint is valid", "replay buffer has valid data", "num_gradient_batches", "(1)", "(2)", "(3)"):
        assert check in message
    return {network for network, _ in bad}, {network for network, _ in named}


@pytest.mark.parametrize(
    ("network", "path"),
    [
        ("actor", "layer_0/kernel"),
        ("actor", "output/bias"),
        ("critic", "q1/layer_0/kernel"),
        ("critic", "q2/layer_1/kernel"),
        ("critic", "q2/output/bias"),
        ("target_critic", "q1/output/bias"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_agent_with_nan_in_its_weights(network, path, value, agent):
    broken = with_params(agent, network, path, value)
    if not not_finite(broken, *drawn(agent.replay_buffer, jax.random.key(3), 0, 16)):
        assert value == np.inf  # behind a ReLU, or saturated: the gradients are finite, and so are the statistics
        statistics = lth.accumulate_gradient_statistics(broken, agent.replay_buffer, 3, 16, key=jax.random.key(3))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics))
        return
    bad, named = bad_gradients(broken, agent.replay_buffer, jax.random.key(3), 3, 0)
    # NaN spreads from one network to the other; the one that it comes from has to be among those that are named.
    assert named & ({network.removeprefix("target_")} & bad or bad)


@pytest.mark.parametrize(
    ("column", "network"), [(0, "actor"), (3, "critic"), (4, "critic"), (6, "critic"), (8, "critic")]
)
def test_a_buffer_with_nan_in_one_row(column, network, agent):
    key, buffer = jax.random.key(11), agent.replay_buffer
    numbered = buffer.state._replace(rows=jnp.arange(300.0)[:, None])
    seen = [
        set(np.asarray(sample_rows(numbered, jax.random.split(jax.random.fold_in(key, i))[0], 16)).ravel().astype(int))
        for i in range(6)
    ]
    row = min(seen[4] - seen[0] - seen[1] - seen[2] - seen[3])  # drawn in batch 4 for the first time
    rows = buffer.state.rows.at[row, column].set(np.nan)
    broken = ReplayBuffer(buffer.state._replace(rows=rows), 3)
    assert network in bad_gradients(agent, broken, key, 6, 4)[1]
    lth.accumulate_gradient_statistics(agent, broken, 4, 16, key=key)  # the batches before it are good


@pytest.mark.parametrize("method", ["gradient", "taylor"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_mask_is_made_from_bad_gradients(method, value, agent):
    params = agent.state.params["actor"]
    gradients = poisoned(jax.tree.map(jnp.ones_like, params), "layer_1/kernel", value)
    words = ["NaN gradients", "NaN or infinity", "(1)", "(2)", "(3)", "checkpoint is valid", "num_gradient_batches"]
    refused(lambda: lth.prune_kernels_by_gradient_saliency(params, gradients, 0.5, method), "'layer_1/kernel'", words)
    assert all(word in CHECKS for word in words[2:])


@pytest.mark.parametrize("method", ["magnitude", "gradient", "taylor"])
def test_no_mask_is_made_from_bad_weights(method, agent):
    params = poisoned(agent.state.params["actor"], "output/kernel", np.nan)
    gradients = jax.tree.map(jnp.ones_like, params)
    words = ["parameters", "NaN or infinity"]
    refused(lambda: lth.prune_kernels_by_gradient_saliency(params, gradients, 0.5, method), "'output/kernel'", words)


@pytest.mark.parametrize("method", ["magnitude", "gradient", "taylor"])
def test_no_mask_is_made_of_an_agent_with_nan(method, agent, results):
    broken = with_params(agent, "critic", "q1/output/kernel", np.nan)
    spec = mask_spec(results.config, dense_spec(results.config, "Pendulum-v1", 0), method, HALF)
    named = "'q1/output/kernel'" if method == "magnitude" else "num_gradient_batches"
    refused(lambda: masking.create_masks(broken, lambda: agent.replay_buffer, spec), named, ["NaN"])


@pytest.mark.parametrize("sparsity", [1.5, -0.1, np.nan, np.inf, "abc", None, [0.5]])
def test_a_sparsity_outside_0_and_1(sparsity, agent):
    params = agent.state.params["actor"]
    gradients = jax.tree.map(jnp.ones_like, params)
    calls = {
        "magnitude": lambda: lth.prune_kernels_by_magnitude(params, sparsity),
        "taylor": lambda: lth.prune_kernels_by_gradient_saliency(params, gradients, sparsity, "taylor"),
        "random": lambda: lth.random_mask(params, sparsity, jax.random.key(0)),
    }
    for call_it in calls.values():
        refused(call_it, f"sparsity is {sparsity!r}", ["from 0 to 1"])


def test_trees_that_do_not_fit_name_the_leaf_and_both_shapes(agent):
    params = agent.state.params["actor"]
    ones = jax.tree.map(jnp.ones_like, params)
    other = {**ones, "layer_1": {**ones["layer_1"], "kernel": jnp.ones((8, 9))}}
    words = ["'layer_1/kernel'", "(8, 9)", "(8, 8)"]
    prune = lth.prune_kernels_by_gradient_saliency
    refused(lambda: prune(params, other, 0.5, "taylor"), "gradients", words)
    refused(lambda: prune(params, ones, 0.5, "taylor", prev_mask=other), "prev_mask", words)
    masks = {**agent.state.params, "actor": other}
    refused(lambda: lth.make_ticket(agent.state, masks), "actor's mask", words)
    refused(lambda: prune(params, {"layer_0": ones["layer_0"]}, 0.5), "gradients", ["'layer_1/bias'"])
    refused(lambda: prune(params, None, 0.5, "taylor"), "gradients", ["'taylor'"])
    refused(lambda: prune(params, ones, 0.5, "taylr"), "'taylr'", ["did you mean 'taylor'?"])
    refused(lambda: prune(params, ones, 0.5, exclude=["outptu"]), "'outptu'", ["did you mean 'output'?"])
    half = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
    refused(lambda: prune(params, ones, 0.5, prev_mask=half), "prev_mask", ["'layer_0/bias'", "0.5"])


@pytest.mark.parametrize("number", [0, -3, 1.5, np.nan, np.inf, "many"])
def test_a_number_of_batches_that_is_none(number, agent):
    buffer = agent.replay_buffer
    refused(
        lambda: lth.accumulate_gradient_statistics(agent, buffer, num_batches=number), "num_batches", [repr(number)]
    )
    refused(
        lambda: lth.accumulate_gradient_statistics(agent, buffer, 2, batch_size=number), "batch_size", [repr(number)]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Spaces.

FLAT = Box(-1.0, 1.0, (2,), np.float32)
INF = np.float32(np.inf)
SPACES = {
    # name: (observation space, action space, what is said)
    "several discrete actions": (FLAT, MultiDiscrete([2, 3]), ["action space", "MultiDiscrete"]),
    "binary actions": (FLAT, MultiBinary(4), ["action space", "MultiBinary(4)"]),
    "a dict of actions": (FLAT, Dict({"arm": FLAT}), ["action space", "Dict"]),
    "a matrix of actions": (FLAT, Box(-1.0, 1.0, (2, 2), np.float32), ["action space", "(2, 2)"]),
    "no actions": (FLAT, Box(-1.0, 1.0, (0,), np.float32), ["action space", "(0,)"]),
    "actions without bounds": (FLAT, Box(-INF, INF, (2,), np.float32), ["action space", "bounds", "inf"]),
    "actions with one bound": (
        FLAT,
        Box(np.array([-1, -INF], np.float32), np.array([1, 1], np.float32)),
        ["action space", "bounds", "inf"],
    ),
    "an action with one value": (
        FLAT,
        Box(np.array([-1, 1], np.float32), np.array([1, 1], np.float32)),
        ["action space", "empty"],
    ),
    "actions that are whole numbers": (FLAT, Box(0, 10, (2,), np.int64), ["action space", "int64"]),
    "actions that are bytes": (FLAT, Box(0, 255, (2,), np.uint8), ["action space", "uint8"]),
    "a dict of observations": (Dict({"camera": FLAT}), FLAT, ["observation space", "Dict", "FlattenObservation"]),
    "a tuple of observations": (Tuple((FLAT, FLAT)), FLAT, ["observation space", "Tuple", "FlattenObservation"]),
    "images": (Box(0, 255, (8, 8, 3), np.uint8), FLAT, ["observation space", "(8, 8, 3)", "FlattenObservation"]),
    "discrete observations": (Discrete(5), FLAT, ["observation space", "Discrete(5)"]),
    "no observations": (Box(-1.0, 1.0, (0,), np.float32), FLAT, ["observation space", "(0,)"]),
}


@pytest.fixture
def registered():
    """Register environments that have spaces and nothing else; they are forgotten after the test."""
    names = []

    def register(observation, action):
        def create(render_mode=None):
            env = gymnasium.Env()
            env.observation_space, env.action_space = observation, action
            return env

        names.append(f"BadInput{len(names)}-v0")
        gymnasium.register(names[-1], entry_point=create, disable_env_checker=True)
        return names[-1]

    yield register
    for name in names:
        gymnasium.registry.pop(name)
    envs.task_spaces.cache_clear()  # the next test registers other spaces under the same name


@pytest.mark.parametrize("case", SPACES)
def test_unsupported_spaces(case, registered):
    observation, action, words = SPACES[case]
    task = registered(observation, action)
    for split_name in (envs.TRAIN, envs.EVALUATE):
        refused(lambda split_name=split_name: envs.make(task, split=split_name), repr(task), words)
    assert all(word in look(task).fault for word in (repr(task), *words))


def test_discrete_actions_for_an_algorithm_that_does_not_take_them(results, tiny_yaml, registered, capsys):
    task = registered(FLAT, Discrete(3))
    words = ["discrete actions", "SAC", "algorithm=dqn"]
    refused(lambda: envs.check_task(task, parse_config(TINY).agent_config), repr(task), words)
    before = contents(results.root)
    errors = said(["run", tiny_yaml, "tasks=CartPole-v1"], capsys)
    assert all(word in errors for word in ("'CartPole-v1'", *words))
    assert contents(results.root) == before


def test_a_supported_space_is_made(registered):
    task = registered(FLAT, Box(np.array([0, -5], np.float32), np.array([1, 5], np.float32)))
    env = envs.make(task)
    assert envs.spaces_of(env) == (2, 2, False)
    assert env.action_space == FLAT


# ---------------------------------------------------------------------------------------------------------------------
# Any damage at all.

FLIPS = st.lists(st.tuples(st.integers(0, 2**30), st.integers(1, 255)), min_size=1, max_size=4)


def with_flips(good, flips):
    data = bytearray(good)
    for offset, bits in flips:
        data[offset % len(good)] ^= bits
    assume(bytes(data) != good)
    return bytes(data)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2**30), flips=FLIPS)
def test_any_damage_is_seen_with_the_checksum(cut, flips, trained, sandbox):
    calls = {
        "checkpoint": lambda: lth.load(sandbox.run),
        "mask": lambda: store.load_mask(sandbox.mask),
        "buffer": lambda: store.load_replay_buffer(sandbox.run),
    }
    for name, load in calls.items():
        path = getattr(sandbox, name)
        good = (trained / path.relative_to(sandbox.root)).read_bytes()
        for damaged in (good[: cut % len(good)], with_flips(good, flips)):
            put(path, damaged, "kept")
            refused(load, path, ALTERED)
            assert path.read_bytes() == damaged
        put(path, good, "kept")


def read_or_refused(load, path):
    """Return what was read, or None where that ends in an InputError that names the file."""
    try:
        return load()
    except InputError as error:
        message = str(error)
    assert str(path) in message
    return None


def is_mask_like(found, good):
    """Say whether a mask has the leaves and shapes of another, and zeros and ones only."""
    leaves = jax.tree.leaves(found)
    return jax.tree.structure(found) == jax.tree.structure(good) and all(
        have.shape == want.shape and np.isin(np.asarray(have), (0, 1)).all()
        for have, want in zip(leaves, jax.tree.leaves(good), strict=True)
    )


@settings(max_examples=150, deadline=None)
@given(flips=FLIPS, protocol=st.integers(0, 5))
def test_a_flipped_byte_of_a_mask_is_refused_or_harmless(flips, protocol, trained, sandbox, agent):
    good = pickle.loads((trained / sandbox.mask.relative_to(sandbox.root)).read_bytes())
    path = sandbox.root / "flipped.pkl"
    put(path, with_flips(pickle.dumps(good, protocol), flips))
    found = read_or_refused(lambda: store.load_mask(path, agent.state), path)
    if found is not None:
        assert is_mask_like(found, good)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2**30), protocol=st.integers(0, 5))
def test_a_mask_cut_anywhere_is_refused(cut, protocol, trained, sandbox):
    good = pickle.dumps(pickle.loads((trained / sandbox.mask.relative_to(sandbox.root)).read_bytes()), protocol)
    path = sandbox.root / "cut.pkl"
    put(path, good[: cut % len(good)])
    refused(lambda: store.load_mask(path), path, NO_PICKLE)


@settings(max_examples=100, deadline=None)
@given(flips=FLIPS)
def test_a_flipped_byte_of_a_buffer_is_refused_or_harmless(flips, trained, sandbox):
    good = (trained / sandbox.buffer.relative_to(sandbox.root)).read_bytes()
    path = sandbox.root / "flipped" / "replay_buffer.pkl"
    path.parent.mkdir(exist_ok=True)
    put(path, with_flips(good, flips))
    buffer = read_or_refused(lambda: store.load_replay_buffer(path.parent), path)
    if buffer is not None:
        saved = buffer.save()
        assert (len(buffer), buffer.observation_dim, buffer.action_dim) == (300, 3, 1)
        assert all(np.isfinite(field).all() for field in saved.values())
        assert np.abs(saved["actions"]).max() <= 1
        assert np.isin(saved["terminated"], (0, 1)).all()


@settings(max_examples=100, deadline=None)
@given(flips=FLIPS)
def test_a_flipped_byte_of_a_checkpoint_is_refused_or_fits(flips, trained, sandbox, agent):
    good = (trained / sandbox.checkpoint.relative_to(sandbox.root)).read_bytes()
    path = sandbox.root / "flipped" / "checkpoint.safetensors"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "replay_buffer.pkl").unlink(missing_ok=True)
    put(path, with_flips(good, flips), "rewritten")
    state = read_or_refused(lambda: lth.load(path.parent).agent.state, path)
    if state is not None:
        assert jax.tree.structure(state) == jax.tree.structure(agent.state)
        for have, want in zip(jax.tree.leaves(state), jax.tree.leaves(agent.state), strict=True):
            assert (have.shape, have.dtype) == (want.shape, want.dtype)
            assert have.dtype != jnp.float32 or np.isfinite(have).all()


@settings(max_examples=100, deadline=None)
@given(flips=FLIPS, protocol=st.integers(0, 5))
def test_no_code_runs_however_it_is_damaged(flips, protocol, trained, sandbox):
    markers = sandbox.root / "markers"
    markers.mkdir(exist_ok=True)
    good = pickle.loads((trained / sandbox.mask.relative_to(sandbox.root)).read_bytes())
    path = sandbox.root / "code.pkl"
    put(path, with_flips(pickled({**good, "critic": HERE}, protocol, open, (str(markers / "ran"), "w")), flips))
    with pytest.raises(InputError):
        store.load_mask(path)
    assert list(markers.iterdir()) == []
