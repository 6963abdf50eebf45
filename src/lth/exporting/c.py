"""Write a policy as C99: one header and one source file without dependencies, with build files and a replay check."""

import re
from collections.abc import Sequence

import numpy as np

from .c_code import CLAMP, NORM, RELU, TANH, TANH_ALL, layer_function
from .c_layout import around
from .c_tables import Layout, array, buffer_sizes, counting, gathers, layouts, literal, table_bytes, tables
from .network import Network, halves, units


def emit(network: Network, title: str, observations: Sequence[str], actions: Sequence[str]) -> dict[str, str]:
    """Return the C program of a folded policy, as text by path.

    Args:
        network: the result of `fold` or `quantize`.
        title: a one-line title of the policy.
        observations: the name of each observation, (observation_dim,).
        actions: the name of each action.
    """
    header = _header(network, _plain(title), [_plain(n) for n in observations], [_plain(n) for n in actions])
    return {"src/policy.h": header, "src/policy.c": _source(network, _plain(title))}


def with_replay(
    program: dict[str, str], network: Network, observations: np.ndarray, actions: np.ndarray, tolerance: float
) -> dict[str, str]:
    """Add build files (CMake, make, Arduino) and a check against a recorded rollout to a program.

    Args:
        program: the result of `emit`.
        network: the policy.
        observations: recorded observations, (steps, observation_dim).
        actions: the expected actions, (steps, actions), or (steps,) for discrete actions.
        tolerance: the allowed difference of the action with the smallest range. For the others it is scaled by their `units`;
            without bounds, by max(|expected action|, 1).
    """
    steps, width = observations.shape
    discrete = network.squash == "argmax"
    kind, columns = ("int", 1) if discrete else ("float", network.actions)
    rollout = (
        "/* Recorded observations, and the actions that were chosen. */\n"
        f"#define ROLLOUT_STEPS {steps}\n#define ROLLOUT_TOLERANCE {literal(tolerance)}\n"
        f"{array('float', 'rollout_observations', observations.ravel())}"
        f"{array(kind, 'rollout_actions', np.asarray(actions).ravel())}"
    )
    scale, allowed = units(network), "one"
    if not discrete and not len(scale):
        allowed = "relative"
    elif (scale != scale[:1]).any():
        allowed = "each"
        rollout += array("float", "rollout_units", scale / scale.min())
    return {**program, "src/rollout.h": rollout, **around(width, columns, discrete, needs_libm(network), allowed)}


def needs_libm(network: Network) -> bool:
    """Return whether the C program must be linked with -lm, for the square root of layer normalization."""
    return any(layer.norm is not None for layer in network.layers)


def _plain(text: str) -> str:
    """Replace characters that a C comment cannot contain."""
    text = re.sub(r"[^ -~]", "?", text).replace("\\", "/")  # first, because it may leave the end of a comment
    text = text.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")
    return text.replace("??/", "? ?/")  # of three question marks; compilers read it as a backslash


def describe(network: Network) -> list[str]:
    """Return one line per layer about its layout."""
    lines = []
    for i, (layer, chosen) in enumerate(zip(network.layers, layouts(network), strict=True)):
        inputs, outputs = layer.kernel.shape
        shape = f"layer {i}: {inputs} -> {outputs}, {layer.weights} of {layer.kernel.size} weights"
        other = "dense" if chosen.kind == "sparse" else "sparse rows"
        mine = "sparse rows" if chosen.kind == "sparse" else "dense"
        why = ", plus an extra function" if chosen.bytes > chosen.other else ""
        lines.append(f"{shape}; {mine}, {chosen.bytes} bytes (as {other}: {chosen.other}{why})")
    return lines


def _header(network: Network, title: str, observations: Sequence[str], actions: Sequence[str]) -> str:
    discrete = network.squash == "argmax"
    reads = set(network.reads.tolist())
    inputs = [f"observation[{i}]: {name}{'' if i in reads else '   (not read)'}" for i, name in enumerate(observations)]
    if discrete:
        what, returned = "the number of an action", "Returned is the number of an action"
        outputs = [f"{network.first_action + i}: {name}" for i, name in enumerate(actions)]
    else:
        what, returned = "an action in the environment's units", "Actions"
        bounds = [f", from {a:.9g} to {b:.9g}" for a, b in zip(network.low, network.high, strict=True)]
        bounds = bounds or [""] * len(actions)
        outputs = [f"action[{i}]: {name}{bounds[i]}" for i, name in enumerate(actions)]
    call = (
        "int policy_act(const float observation[POLICY_OBSERVATIONS]);"
        if discrete
        else "void policy_act(const float observation[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS]);"
    )
    stack = 4 * sum(buffer_sizes(network))
    return f"""/* {title}
 *
 * From an observation in the environment's units to {what}. C99, no allocation, no state: calls
 * from several threads do not disturb each other, and each takes the same number of operations.
 *
 * {network.multiply_adds} multiply-adds a call, {table_bytes(network)} bytes of constants, {stack} bytes of buffers on the stack.
{_listed(describe(network))}
 *
 * Observations:
{_listed(inputs)}
 * {returned}:
{_listed(outputs)}
 */
#ifndef POLICY_H
#define POLICY_H

#define POLICY_OBSERVATIONS {network.observation_dim}
#define POLICY_ACTIONS {network.actions}

#ifdef __cplusplus
extern "C" {{
#endif

{call}

#ifdef __cplusplus
}}
#endif

#endif
"""


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f" *   {line}" for line in lines)


def _source(network: Network, title: str) -> str:
    chosen, discrete = layouts(network), network.squash == "argmax"
    functions = {one.function: layer_function(one) for one in chosen}
    hidden = len(network.layers) > 1
    used = list(functions.values())
    if hidden and network.activation == "relu":
        used.append(RELU)
    if network.squash == "tanh" or (hidden and network.activation == "tanh"):
        used.append(TANH)
    if hidden and network.activation == "tanh":
        used.append(TANH_ALL)
    if network.squash in ("tanh", "clip") or np.isfinite(network.clip):
        used.append(CLAMP)
    if needs_libm(network):
        used.append(NORM)
    named = [f"layer{i}" for i in range(len(chosen))]
    data = [
        _inputs(network),
        *(tables(layer, how, name) for layer, how, name in zip(network.layers, chosen, named, strict=True)),
        _bounds(network),
    ]
    includes = "#include <stdint.h>\n" + ("#include <math.h>\n" if needs_libm(network) else "")
    return (
        f'/* {title}: see policy.h. */\n#include "policy.h"\n\n{includes}\n'
        + "\n".join(text for text in data if text)
        + "".join(used)
        + f"\n{_body(network, chosen, named, discrete)}"
    )


def _inputs(network: Network) -> str:
    if not gathers(network):
        return ""
    text = array(counting(network.observation_dim - 1), "reads", network.reads)
    if network.normalizes:
        text += array("float", "input_mean", network.mean) + array("float", "input_scale", network.scale)
    return text


def _bounds(network: Network) -> str:
    if network.squash in ("argmax", "none"):
        return ""
    text = array("float", "action_low", network.low) + array("float", "action_high", network.high)
    if network.squash == "tanh":
        half, middle = halves(network)
        text += array("float", "action_half", half) + array("float", "action_middle", middle)
    return text


def _body(network: Network, chosen: Sequence[Layout], named: Sequence[str], discrete: bool) -> str:
    even, odd = buffer_sizes(network)
    lines = ["int i;"]
    if discrete:
        lines.append("int best = 0;")
    source = "observation"
    last = len(chosen) - 1
    if even:
        lines.append(f"float even[{even}];")
    lines.append(f"float odd[{odd}];")
    if gathers(network):
        value = "observation[reads[i]]"
        if network.normalizes:
            value = f"({value} - input_mean[i]) * input_scale[i]"
        if np.isfinite(network.clip):
            value = f"clamp({value}, {literal(-network.clip)}, {literal(network.clip)})"
        lines += [f"for (i = 0; i < {len(network.reads)}; i++) {{", f"    even[i] = {value};", "}"]
        source = "even"
    for i, (layer, how, name) in enumerate(zip(network.layers, chosen, named, strict=True)):
        target = "odd" if i % 2 == 0 else "even"
        inputs, outputs = layer.kernel.shape
        scales = f"{name}_scales, " if layer.scales is not None else ""
        middle = f"{outputs}, {name}_counts, {name}_columns" if how.kind == "sparse" else f"{outputs}, {inputs}"
        lines.append(f"{how.function}({source}, {target}, {middle}, {name}_weights, {scales}{name}_bias);")
        if layer.norm is not None:
            lines.append(f"layer_norm({target}, {outputs}, {name}_norm_scale, {name}_norm_shift);")
        if i < last:
            lines.append(f"{'relu' if network.activation == 'relu' else 'tanh_all'}({target}, {outputs});")
        source = target
    lines += _ending(network, source)
    signature = "int policy_act(const float observation[POLICY_OBSERVATIONS])"
    if not discrete:
        signature = "void policy_act(const float observation[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS])"
    return f"{signature}\n{{\n" + "\n".join(f"    {line}" for line in lines) + "\n}\n"


def _ending(network: Network, source: str) -> list[str]:
    n = network.actions
    if network.squash == "argmax":
        first = f"{network.first_action} + " if network.first_action else ""
        return [
            f"for (i = 1; i < {n}; i++) {{",
            f"    best = {source}[i] > {source}[best] ? i : best;",
            "}",
            f"return {first}best;",
        ]
    value = {
        "none": f"{source}[i]",
        "clip": f"clamp({source}[i], action_low[i], action_high[i])",
        "tanh": f"clamp(action_half[i] * policy_tanh({source}[i]) + action_middle[i], action_low[i], action_high[i])",
    }[network.squash]
    return [f"for (i = 0; i < {n}; i++) {{", f"    action[i] = {value};", "}"]
