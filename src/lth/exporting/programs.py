"""Build and run one program per format, and measure its speed and size."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import c, numpy_code, onnx
from .c_tables import table_bytes
from .check import Act, decided, seconds_of, tolerance_of
from .compilers import compiled, cortex_m4_bytes
from .fold import quantize
from .network import Network, run
from .subjects import Subject


class Program(NamedTuple):
    """A program before it is written."""

    name: str
    files: dict[str, bytes]
    """File contents by path in the output folder."""
    act: Act
    seconds: float
    """Seconds per call."""
    bytes: int
    network: Network
    """The network that it computes."""
    flash: int | None = None
    """For C: .text and .rodata on a Cortex-M4, if a cross compiler is installed."""
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def c_program(
    subject: Subject, network: Network, observations: np.ndarray, actions: np.ndarray, quantized: bool = False
) -> Iterator[Program]:
    """Compile the C program of a folded policy.

    Raises:
        InputError: there is no C compiler.
        ExportError: compilation failed.
    """
    if quantized:
        network = quantize(network)
        actions = run(network, observations)
    program = c.emit(network, subject.title, subject.observations, subject.actions)
    flash = cortex_m4_bytes(program)
    replayed = observations, actions
    if network.squash == "argmax" and (clear := decided(network, observations)).any():
        replayed = observations[clear], actions[clear]  # a board may round ties to another action
    files = c.with_replay(program, network, *replayed, tolerance_of(network))
    size = table_bytes(network) if flash is None else flash
    with compiled(program, network) as built:
        yield Program(
            "c int8" if quantized else "c",
            {f"c/{path}": text.encode() for path, text in files.items()},
            built.act,
            built.seconds(observations),
            size,
            network,
            flash,
            tuple(c.describe(network)),
        )


@contextlib.contextmanager
def onnx_program(
    subject: Subject, network: Network, observations: np.ndarray, actions: np.ndarray
) -> Iterator[Program]:
    """Build the ONNX model of a folded policy, without metadata.

    Raises:
        InputError: `onnx` or `onnxruntime` is not installed.
    """
    model = onnx.emit(network, {})
    act = onnx.session(model)
    for batch in (1, 2, 7):  # other batch sizes; the check itself runs all observations at once
        act(observations[:batch])
    yield Program("onnx", {"policy.onnx": model}, act, seconds_of(act, observations), len(model), network)


@contextlib.contextmanager
def numpy_program(
    subject: Subject, network: Network, observations: np.ndarray, actions: np.ndarray
) -> Iterator[Program]:
    """Build the NumPy program of a folded policy."""
    files = numpy_code.emit(network, subject.title)
    with tempfile.TemporaryDirectory(prefix="lth-export-") as folder:
        act = numpy_code.load(files, Path(folder))
    named = {f"numpy/{name}": data for name, data in files.items()}
    yield Program("numpy", named, act, seconds_of(act, observations), len(files["policy.npz"]), network)


PROGRAMS: dict[str, Callable[..., AbstractContextManager[Program]]] = {
    "c": c_program,
    "onnx": onnx_program,
    "numpy": numpy_program,
}
