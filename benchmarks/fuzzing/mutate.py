"""Damage files: raw bytes, opcodes of pickles, values of JSON and YAML, cells of CSV."""

import copy
import json
import pickletools
import random
import struct
from typing import Any

import yaml

ODD = [
    *(None, True, False, "", " ", "x", [], {}, [[]], {"a": None}, [1] * 2000, "x" * 5000),
    *(0, -1, 1, 2, 0.5, -0.0, 2**31, 2**63, -(2**64), 10**30, 10**400, 1e308, 1e-320),
    *(float("nan"), float("inf"), -float("inf"), "nan", "1e999", "0", "none", "Pendulum-v1"),
    *("\x1b[31mred", "\x07\b", "\ud800", "\0", "\u202e", "[/x]", "<b>&", "a\nb", "..", "../../..", "/proc/nowhere"),
]
"""Values that do not belong where they are put."""
TOKENS = [
    *(b"\0", b"\xff", b"\n", b"\r", b",", b'"', b"{", b"}", b"[", b"]", b":", b"-", b"null", b"true"),
    *(b"\x1b[2J", b"\xef\xbb\xbf", b"\xe2\x80\xae", b'"\\ud800"', b"NaN", b"Infinity", b"1e999"),
    *(b"9" * 400, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000),
]
NAMES = [
    *(b"numpy\nndarray", b"numpy\ndtype", b"numpy._core.multiarray\nscalar", b"numpy._core.numeric\n_frombuffer"),
    *(b"_codecs\nencode", b"builtins\nbytes", b"os\nsystem", b"\n"),
]
WORDS = [b"a", b"", b"0", b"1L", b"-1", b"numpy", b"ndarray", b"f4", b"9" * 5000, b"\xff", b"'a'", b"nan"]


def damage_bytes(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Flip, cut, repeat, insert or splice."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        near = min(end, at + rng.choice((1, 2, 4, 16, 64)))
        way = rng.randrange(7)
        if way == 0 and data:
            data = data[: at - 1] + bytes([data[at - 1] ^ 1 << rng.randrange(8)]) + data[at:] if at else data
        elif way == 1:
            data = data[:at] + rng.randbytes(near - at) + data[near:]
        elif way == 2:
            data = rng.choice((data[:at], data[at:], data[:at] + data[near:]))
        elif way == 3:
            data = data[:at] + data[at:near] * rng.choice((2, 2, 3, 40)) + data[near:]
        elif way == 4:
            data = data[:at] + rng.choice(TOKENS) + data[rng.choice((at, near)) :]
        elif way == 5:
            other = rng.choice(others)
            data = data[:at] + other[rng.randint(0, len(other)) :]
        else:
            number = struct.pack(rng.choice("<>") + rng.choice("hiq"), rng.choice((-1, 0, 1, 127, 2**15 - 1)))
            data = data[:at] + number + data[near:]
    return data


def opcodes(data: bytes) -> list[bytes]:
    """Split a pickle into its operations, as far as it can be read."""
    starts = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position)
    except Exception:
        pass
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def random_opcode(rng: random.Random) -> bytes:
    """Return a random operation with a random argument of the right kind."""
    opcode = rng.choice(pickletools.opcodes)
    code, size = opcode.code.encode("latin1"), opcode.arg.n if opcode.arg else 0
    text = rng.choice(WORDS)
    if opcode.arg and opcode.arg.name == "stringnl_noescape_pair":
        return code + rng.choice(NAMES) + b"\n"
    if size >= 0:
        return code + _number(rng, size)
    if size == pickletools.UP_TO_NEWLINE:
        return code + text + b"\n"
    form = {-2: "<B", -3: "<i", -4: "<I", -5: "<Q"}[size]
    return code + struct.pack(form, rng.choice((len(text) % 128, 0, 100))) + text


def _number(rng: random.Random, size: int) -> bytes:
    return rng.choice((rng.randbytes(size), b"\xff" * size, rng.randrange(8).to_bytes(8, "little")[:size]))


def damage_pickle(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Delete, repeat, swap or insert operations, copy them from another pickle, or change bytes."""
    parts = opcodes(data) if rng.random() < 0.75 else []
    if not parts:
        return damage_bytes(rng, data, others)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(parts) + 1)
        end = min(len(parts), at + rng.choice((1, 1, 2, 8, 30)))
        way = rng.randrange(7)
        if way == 0 and len(parts) > 1:
            del parts[at:end]
        elif way == 1:
            parts[at:end] = parts[at:end] * rng.choice((2, 2, 3, 1000 if rng.random() < 0.02 else 5))
        elif way == 2 and end < len(parts):
            parts[at], parts[end] = parts[end], parts[at]
        elif way == 3:
            parts.insert(at, random_opcode(rng))
        elif way == 4:
            parts[at:end] = [random_opcode(rng) for _ in range(rng.choice((1, 2, 5)))]
        elif way == 5:
            other = opcodes(rng.choice(others)) or [b"."]
            start = rng.randrange(len(other))
            parts[at:at] = other[start : start + rng.choice((1, 3, 10, 100))]
        elif at < len(parts):
            parts[at] = damage_bytes(rng, parts[at], others)
        if not parts:
            parts = [b"."]
    return b"".join(parts)[:1_000_000]


def places_of(node: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values of a dict, or the indices and values of a list."""
    return list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []


def damage_value(rng: random.Random, value: Any) -> Any:
    """Change one entry of a tree: replace its value, delete or rename its key, or copy another value of the tree."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, inner in places_of(node):
            places.append((node, key))
            walk(inner)

    walk(value)
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(ODD))
    node, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[str(rng.choice(ODD))] = node.pop(key)
    elif way == 2:
        other, name = rng.choice(places)
        node[key] = json.loads(json.dumps(dict(places_of(other)).get(name)))
    elif way == 3:
        node[key] = {"a": [node[key]]}
    else:
        node[key] = copy.deepcopy(rng.choice(ODD))
    return value


def damage_file(rng: random.Random, name: str, data: bytes, others: list[bytes]) -> bytes:
    """Damage a file by its content type, or in a third of cases by raw bytes."""
    try:
        if rng.random() < 0.35:
            return damage_bytes(rng, data, others)
        times = range(rng.choice((1, 1, 2, 3)))
        if name.endswith(".json"):
            value = json.loads(data)
            for _ in times:
                value = damage_value(rng, value)
            return json.dumps(value).encode()
        if name.endswith(".jsonl"):
            lines = data.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(damage_value(rng, json.loads(lines[at]))).encode()
            return b"\n".join(lines * rng.choice((1, 1, 3)))
        if name.endswith(".yaml"):
            value = yaml.safe_load(data)
            for _ in times:
                value = damage_value(rng, value)
            return yaml.safe_dump(value, allow_unicode=rng.random() < 0.5).encode(errors="replace")
        if name.endswith(".csv"):
            rows = [line.split(",") for line in data.decode().splitlines()]
            for _ in times:
                row = rows[rng.choice((0, 1, -1, rng.randrange(len(rows)), rng.randrange(len(rows))))]
                row[rng.randrange(len(row))] = str(rng.choice(ODD))
            return "\n".join(map(",".join, rows * rng.choice((1, 1, 1, 2)))).encode(errors="surrogatepass")
        if name.endswith(".pkl"):
            return damage_pickle(rng, data, others)
        if name.endswith(".safetensors"):
            return damage_tensors(rng, data)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, yaml.YAMLError):
        pass
    return damage_bytes(rng, data, others)


def damage_tensors(rng: random.Random, data: bytes) -> bytes:
    """Change the header, the metadata or the arrays of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), data[end:]
    if rng.random() < 0.5:
        header["__metadata__"]["lth"] = json.dumps(damage_value(rng, json.loads(header["__metadata__"]["lth"])))
    elif rng.random() < 0.5:
        header = damage_value(rng, header)
    else:
        body = damage_bytes(rng, body, [body])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
