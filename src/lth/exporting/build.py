"""Build programs for a policy. Each is run, compared with the agent and measured before any file is written."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from . import onnx
from .check import check, deviation, record, returns, seconds_of
from .contract import Row, contract, sizes_of
from .fold import fold, unread
from .network import numbers, run
from .programs import PROGRAMS, Program
from .subjects import Subject


class Built(NamedTuple):
    """Checked programs before they are written."""

    files: dict[str, bytes]
    """File contents by path in the output folder."""
    contract: dict[str, Any]
    rows: list[Row]
    notes: list[str]
    """The layout of each layer in C, and skipped formats with the reason."""
    unread: list[str]
    """The names of observations that do not affect the actions."""


def build(subject: Subject, formats: Sequence[str], quantized: bool, episodes: int, skip: bool) -> Built:
    """Build programs for a policy and check each.

    Args:
        subject: the policy.
        formats: names of PROGRAMS.
        quantized: whether the weights of the C program have 8 bits.
        episodes: evaluation episodes for the agent and each program; 0: none.
        skip: skip formats whose tools are not installed, with a note, instead of raising.

    Raises:
        InputError: a compiler or a package is missing, or the compiler is for another machine; or an observation or an action is
            not finite.
        ExportError: a program does not reproduce the agent's actions.
    """
    interface, whole = subject.interface, subject.network
    network = fold(whole, interface.observation_low, interface.observation_high)
    observations, actions = record(subject)
    for what, values in (("observations", observations), ("actions", actions)):
        numbers(f"the recorded {what}", values, "Very large inputs or weights overflow float32: scale them down")
    # First, because rounded weights are compared with the network that they round, not with the agent.
    check("float32", network, lambda x: run(network, x), observations, actions, subject.cause)
    parameters = sum(layer.kernel.size + layer.bias.size for layer in whole.layers)
    agent = Row(
        "agent",
        4 * parameters,
        whole.dense_multiply_adds,
        1e6 * seconds_of(subject.act, observations),
        0.0,
        returns(subject, subject.act, episodes),
    )
    rows, notes, flash = [agent], list[str](), None
    files: dict[str, bytes] = {}
    for name in formats:
        how = {"quantized": True} if quantized and name == "c" else {}
        try:
            with PROGRAMS[name](subject, network, observations, actions, **how) as program:
                rows.append(_measured(subject, program, observations, actions, episodes))
        except InputError as error:
            if not skip:
                raise
            notes.append(f"skipped {name}: {error}")
            continue
        files |= program.files
        notes += program.notes
        flash = program.flash or flash
    if len(rows) == 1:
        raise InputError(f"nothing can be exported here: {'; '.join(notes)}")
    dropped, sizes = unread(whole, network), sizes_of(whole, network, flash)
    about = contract(subject, network, dropped, rows, sizes)
    at = next((i for i, row in enumerate(rows) if row.name == "onnx"), None)
    # Emit again with the contract as metadata, until the file has the size that the contract says.
    while at is not None:
        files["policy.onnx"] = onnx.emit(network, about)
        if len(files["policy.onnx"]) == rows[at].bytes:
            check("onnx", network, onnx.session(files["policy.onnx"]), observations, actions)
            break
        rows[at] = rows[at]._replace(bytes=len(files["policy.onnx"]))
        about = contract(subject, network, dropped, rows, sizes)
    files["rollout.npz"] = _rollout(observations, actions)
    return Built(files, about, rows, notes, [subject.observations[i] for i in dropped])


def _measured(subject: Subject, program: Program, observations: np.ndarray, actions: np.ndarray, episodes: int) -> Row:
    quantized = program.network.layers[0].scales is not None
    # Rounded weights are another policy: the program must match it, and its difference from the agent is reported.
    expected = run(program.network, observations) if quantized else actions
    check(program.name, program.network, program.act, observations, expected)
    differs = deviation(program.network, observations, program.act(observations), actions)
    return Row(
        program.name,
        program.bytes,
        program.network.multiply_adds if program.name.startswith("c") else program.network.dense_multiply_adds,
        1e6 * program.seconds,
        differs,
        returns(subject, program.act, episodes),
    )


def _rollout(observations: np.ndarray, actions: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, observation=observations, action=actions)
    return file.getvalue()
