"""Every kind of policy, written down in every format, gives the exact actions; and C compiles and runs where it is meant to."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.policies import CASES, exact, exact_actions, network, observations, subject

from lth.algorithms.architecture import Head, Spaces
from lth.exporting import c
from lth.exporting.c_tables import table_bytes
from lth.exporting.check import TOLERANCE, deviation, tolerance_of
from lth.exporting.compilers import CORTEX_M4, STRICT, compiled
from lth.exporting.fold import fold, quantize, unread
from lth.exporting.network import run
from lth.exporting.programs import PROGRAMS
from lth.exporting.sizes import mask_bytes

COMPILERS = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason="not installed"))
    for name in ("gcc", "clang")
]
FEW = ("tanh", "dense", "many inputs", "argmax with layer norm")
STILL = ["setarch", "-R"] if shutil.which("setarch") else []  # the address sanitizer hangs under some layouts of memory
START = """
#include "policy.h"
#include "rollout.h"
int main(void);
int printf(const char *format, ...);
void _start(void);
int printf(const char *format, ...) { return format[0]; }
void _start(void)
{
    register int number __asm__("r7") = 1;
    register int status __asm__("r0") = main();
    __asm__ volatile("svc 0" : : "r"(number), "r"(status));
}
"""


@pytest.fixture(params=CASES, ids=str)
def case(request):
    policy = CASES[request.param]
    seen = observations(policy)
    return policy, fold(policy), seen


def sources(policy, folder, quantized=False):
    """Write the C program of a policy into a folder, with a rollout that the exact actions answer."""
    small = quantize(fold(policy)) if quantized else fold(policy)
    seen = observations(policy)
    actions = exact_actions(small, seen)
    of = subject(policy)
    program = c.emit(small, of.title, of.observations, of.actions)
    for name, text in c.with_replay(program, small, seen, actions, tolerance_of(small)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def call(*command, **how):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **how)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_folding_keeps_the_actions(case):
    policy, small, seen = case
    assert np.allclose(exact(small, seen), exact(policy, seen), atol=2e-5, rtol=2e-5)
    assert small.multiply_adds <= policy.multiply_adds
    assert small.dense_multiply_adds <= policy.dense_multiply_adds
    assert deviation(policy, seen, run(small, seen), exact_actions(policy, seen)) < TOLERANCE


@pytest.mark.parametrize("format", PROGRAMS)
def test_every_program_gives_the_exact_actions(case, format):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    policy, small, seen = case
    expected = exact_actions(policy, seen)
    with PROGRAMS[format](subject(policy), small, seen, expected) as program:
        for batch in (1, 2, 7, len(seen)):
            found = program.act(seen[:batch])
            assert found.shape == expected[:batch].shape
            assert found.dtype == (np.int64 if policy.squash == "argmax" else np.float32)
            assert deviation(policy, seen[:batch], found, expected[:batch]) < TOLERANCE
            if len(policy.low):
                assert ((found >= policy.low) & (found <= policy.high)).all()


@pytest.mark.parametrize("policy", FEW)
def test_eight_bits_are_the_rounded_weights(policy):
    policy = CASES[policy]
    small, seen = fold(policy), observations(policy)
    rounded = quantize(small)
    for layer, before in zip(rounded.layers, small.layers, strict=True):
        whole = layer.kernel / layer.scales
        assert np.allclose(whole, np.rint(whole), atol=1e-4)
        assert np.abs(whole).max() < 127.5
        assert (np.abs(layer.kernel - before.kernel) <= layer.scales * 0.5001).all()
    with PROGRAMS["c"](subject(policy), small, seen, run(small, seen), quantized=True) as program:
        assert deviation(rounded, seen, program.act(seen), exact_actions(rounded, seen)) < TOLERANCE


def test_what_folding_removes():
    policy = network((6, 20, 18, 3))
    small = fold(policy)
    assert unread(policy, small) == [2]
    assert 2 not in small.reads
    assert all(layer.kernel.any(axis=0).all() for layer in small.layers[:-1])  # every unit reads something
    assert all(layer.kernel.any(axis=1).all() for layer in small.layers)  # and is read
    constant = network(density=0.0)
    assert unread(constant, fold(constant)) == list(range(6))


@pytest.mark.parametrize("emptied", [0, 1, 2])
def test_no_input_is_needed_where_a_layer_is_emptied(emptied):
    policy = network((6, 8, 8, 3), density=0.6)
    layers = list(policy.layers)
    layers[emptied] = layers[emptied]._replace(kernel=np.zeros_like(layers[emptied].kernel))
    policy = policy._replace(layers=tuple(layers))
    small, seen = fold(policy), observations(policy)
    assert unread(policy, small) == list(range(6))
    assert deviation(policy, seen, run(small, seen), exact_actions(policy, seen)) < TOLERANCE
    names = ["layer_0", "layer_1", "output"]
    masks = {
        name: {"kernel": layer.kernel != 0, "bias": layer.bias == layer.bias}
        for name, layer in zip(names, layers, strict=True)
    }
    assert table_bytes(small) == mask_bytes(masks, Spaces(6, 3), Head(3, "tanh"), True)


def test_the_normalizer_is_folded_only_where_nothing_can_be_clipped():
    policy = network(density=1.0, seed=3)
    n = policy.observation_dim
    inside = fold(policy, np.full(n, -2.0), np.full(n, 2.0))
    assert not inside.normalizes
    seen = np.random.default_rng(0).uniform(-2, 2, (100, n)).astype(np.float32)
    assert deviation(policy, seen, run(inside, seen), exact_actions(policy, seen)) < TOLERANCE
    assert fold(policy, np.full(n, -100.0), np.full(n, 100.0)).clip == 10.0
    assert fold(policy, np.full(n, -np.inf), np.full(n, 2.0)).clip == 10.0
    far = policy._replace(mean=policy.mean + 50.0)  # the difference of large numbers: float32 would not carry it
    assert fold(far, far.mean - 1, far.mean + 1).normalizes


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_names_do_not_end_the_comment_that_they_are_in():
    policy = CASES["no layer but one, nothing normalized"]
    names = [
        "*\\",
        "/\\*",
        "\u901f\u5ea6\u89d2/",
        "*/ int",
        "?" * 5 + "\\",
    ]  # three signs that are not ASCII become ???
    program = c.emit(policy, "**//** \\", names, names[:2])
    with compiled(program, policy) as built:  # with all warnings as errors
        seen = observations(policy)
        assert deviation(policy, seen, built.act(seen), exact_actions(policy, seen)) < TOLERANCE


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_tanh_is_that_of_the_library():
    values = np.concatenate([np.linspace(-12, 12, 20001), np.logspace(-30, 0, 200)]).astype(np.float32)
    policy = network((1, 1), density=1.0, normal=False)
    one = policy.layers[0]._replace(kernel=np.ones((1, 1), np.float32), bias=np.zeros(1, np.float32))
    ends = np.ones(1, np.float32)
    policy = policy._replace(layers=(one,), low=-ends, high=ends)
    with compiled(c.emit(policy, "tanh", ["x"], ["y"]), policy) as program:
        found = program.act(values[:, None])[:, 0]
    exact_tanh = np.tanh(values.astype(np.float64))
    assert np.abs(found - exact_tanh).max() < 2e-7
    assert np.abs(found / exact_tanh - 1).max() < 3e-7


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize("policy", FEW)
def test_c_is_strict_without_dependencies_and_without_state(policy, name, quantized, tmp_path):
    policy = CASES[policy]
    folder = sources(policy, tmp_path, quantized)
    call(name, *STRICT, "-Os", "-c", "src/policy.c", "-o", "policy.o", cwd=folder)
    undefined = call("nm", "-u", "policy.o", cwd=folder).split()
    assert set(undefined) <= {"U", "memset", "memcpy", "memmove", *(["sqrtf"] if c.needs_libm(policy) else [])}
    sections = {
        line.split()[0]: int(line.split()[1])
        for line in call("size", "-A", folder / "policy.o").splitlines()[2:-2]
        if line
    }
    assert not any(
        size for section, size in sections.items() if section.startswith((".data", ".bss")) and "rel" not in section
    )
    checks = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    call(name, *STRICT, *checks, "-Isrc", "src/policy.c", "replay/main.c", "-o", "replay_rollout", "-lm", cwd=folder)
    assert call(*STILL, "./replay_rollout", cwd=folder) == "50 steps replayed, 0 actions differ\n"


@pytest.mark.skipif(not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-arm")), reason="no cross compiler")
@pytest.mark.parametrize("policy", FEW)
def test_c_runs_on_a_cortex_m4_without_any_library(policy, tmp_path):
    policy = CASES[policy]
    if c.needs_libm(policy):
        pytest.skip("layer normalization takes the library's square root")
    folder = sources(policy, tmp_path)
    (folder / "start.c").write_text(START)
    flags = [*CORTEX_M4, "-ffreestanding", "-nostdlib", "-static", "-Wl,-e,_start", "-Isrc"]
    parts = ["src/policy.c", "replay/main.c", "start.c"]
    call("arm-none-eabi-gcc", *STRICT, "-fno-builtin", *flags, *parts, "-o", "replay.elf", "-lgcc", cwd=folder)
    call("qemu-arm", "-cpu", "max", "replay.elf", cwd=folder)
    text = (folder / "src/rollout.h").read_text()
    (folder / "src/rollout.h").write_text(text.replace("ROLLOUT_TOLERANCE", "ROLLOUT_TOLERANCE -1.0f //"))
    call("arm-none-eabi-gcc", "-fno-builtin", *flags, *parts, "-o", "replay.elf", "-lgcc", cwd=folder)
    if policy.squash != "argmax":
        assert (
            subprocess.run(["qemu-arm", "-cpu", "max", folder / "replay.elf"], check=False).returncode == 1
        )  # it does compare


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")), reason="no cross compiler"
)
@pytest.mark.parametrize("policy", FEW)
def test_c_runs_on_aarch64(policy, tmp_path):
    policy = CASES[policy]
    folder = sources(policy, tmp_path)
    parts = ["src/policy.c", "replay/main.c"]
    call("aarch64-linux-gnu-gcc", *STRICT, "-O3", "-static", "-Isrc", *parts, "-o", "replay_rollout", "-lm", cwd=folder)
    assert "0 actions differ" in call("qemu-aarch64", "replay_rollout", cwd=folder)


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("make")), reason="not installed")
def test_cmake_and_make_work_as_they_are(tmp_path):
    folder = sources(CASES["argmax with layer norm"], tmp_path)
    assert "0 actions differ" in call("make", cwd=folder)
    call("cmake", "-B", "build", cwd=folder)
    call("cmake", "--build", "build", cwd=folder)
    assert "100% tests passed" in call("ctest", "--test-dir", "build", cwd=folder)


def test_the_numpy_file_is_short_and_needs_numpy_alone(tmp_path):
    from lth.exporting import numpy_code

    policy = CASES["argmax with layer norm"]
    for name, data in numpy_code.emit(fold(policy), 'a """policy""" \\').items():
        (tmp_path / name).write_bytes(data)
    assert len((tmp_path / "policy.py").read_text().splitlines()) < 60
    code = (
        "import sys; sys.path.insert(0, '.'); from policy import act; import numpy as np;"
        "print(act(np.zeros(6)), act(np.zeros((2, 6))).shape);"
        "assert not {'jax', 'lth', 'onnx', 'scipy'} & set(sys.modules)\n"
        "try: act(np.zeros(5))\nexcept ValueError as error: print(error)"
    )
    found = call(sys.executable, "-I", "-c", code, cwd=tmp_path).splitlines()
    assert found == [
        f"{exact_actions(policy, np.zeros((1, 6)))[0]} (2,)",
        "an observation has 6 numbers, not shape (5,)",
    ]


def test_onnx_says_what_it_is_and_takes_any_batch():
    onnx = pytest.importorskip("onnx")
    from lth.exporting import onnx as emitter

    model = onnx.load_from_string(emitter.emit(fold(CASES["tanh"]), {"task": "T", "dt": 0.05, "names": ["a", "b"]}))
    (taken,), (given,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in (taken, given)]
    assert (taken.name, given.name, shapes) == ("observation", "action", [["batch", 6], ["batch", 3]])
    assert {p.key: p.value for p in model.metadata_props} == {"task": "T", "dt": "0.05", "names": '["a", "b"]'}
