"""Fuzz the pickle reader: its result must equal that of Python's pickle, without side effects."""

import io
import pickle
import resource
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import test_bad_input as hostile

import lth
from lth import pickles
from lth.experiment import records

from .mutate import damage_pickle, opcodes
from .record import Record, site

MOST_SECONDS, MOST_MEGABYTES, LONG_MESSAGE = 2.0, 200, 3000
LOUD = {"open", "exec", "compile", "import", "os", "subprocess", "pickle", "ctypes", "socket", "shutil", "marshal"}
"""Audit events (up to their first dot) of code that runs."""


class Reference(pickle.Unpickler):
    """Python's pickle, restricted to the globals that lth allows. Copies `numpy.dtype`, because its state would change NumPy's
    types.
    """

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in pickles._ADMITTED:
            raise pickle.UnpicklingError(name)
        return (lambda text, *_: np.dtype(text, False, True)) if name == "dtype" else super().find_class(module, name)


class PickleFuzzer:
    """Keeps mutants that reach a new pair of opcodes or a new outcome, and mutates them further."""

    def __init__(self, record: Record):
        self.record, self.rng = record, record.rng
        self.pairs: set[tuple[str, str]] = set()
        self.heard: list[str] = []
        self.listens = False
        self.odd_state = False
        warnings.simplefilter("ignore")  # of escapes in old strings; to show one opens a file
        self._watch_the_reader()
        valid = valid_pickles()
        self.valid, self.corpus = set(valid), [*valid, *hostile_pickles(record.folder)]
        for data in self.corpus:  # once before anything counts, for what is imported at first use
            self._read(data)
        self.resident = megabytes()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31,) * 2)
        sys.addaudithook(lambda event, _: self.listens and event.split(".")[0] in LOUD and self.heard.append(event))

    def _watch_the_reader(self) -> None:
        """Record the opcodes that are read, and dtype states that crash NumPy and so cannot be compared."""
        genops, fuzzer = pickles.pickletools.genops, self

        def watched(data: bytes) -> Any:
            before = ""
            for step in genops(data):
                self.pairs.add((before, before := step[0].name))
                yield step

        class Dtype(pickles._Dtype):
            def build(self, state: Any) -> None:
                super().build(state)
                fuzzer.odd_state |= tuple(state[2:]) != (None, None, None, -1, -1, 0)

        pickles.pickletools = types.SimpleNamespace(genops=watched)
        pickles._Dtype = pickles._ADMITTED["numpy.dtype"] = Dtype

    def run(self, until: float) -> None:
        """Fuzz until a time of the monotonic clock."""
        for data in self.corpus:
            if self.replay(data) != "read" and data in self.valid:
                self.record.finding("a valid pickle was rejected")
        ends: set[str] = set()
        while time.monotonic() < until:
            known = len(self.pairs)
            chosen = self.rng.choice(self.corpus[-200:] if self.rng.random() < 0.3 else self.corpus)
            data = damage_pickle(self.rng, chosen, self.corpus)
            if self.rng.random() < 0.001:
                data = data[: len(data) // 2] * (1_000_000 // max(len(data), 1)) + data[len(data) // 2 :]
            end = self.replay(data)
            if len(data) < 4000 and (end not in ends or len(self.pairs) > known):
                self.corpus.append(data)
                ends.add(end)
        self.record.counts |= {"corpus": len(self.corpus), "opcode_pairs": len(self.pairs), "endings": len(ends)}

    def _read(self, data: bytes) -> Any:
        try:
            return pickles.read_pickle(data)
        except Exception as error:
            return error

    def replay(self, data: bytes) -> str:
        """Read one pickle, check all guarantees, and return the outcome."""
        finding = self.record.finding
        self.record.begin(data)
        self.heard.clear()
        self.odd_state, self.listens, started = False, True, time.process_time()
        result = self._read(data)
        seconds, self.listens = time.process_time() - started, False
        end = site(result) if isinstance(result, Exception) else "read"
        self.record.took(seconds)
        if self.heard:
            finding(f"it did {self.heard[0]}", str(self.heard))
        if isinstance(result, MemoryError) or (megabytes() > self.resident + MOST_MEGABYTES):
            finding("memory", f"{megabytes() - self.resident:.0f} MB, {end}")
            self.resident = megabytes()  # the highest so far
        if seconds > MOST_SECONDS:
            finding("slow", f"{seconds:.1f} s, {end}")
        if end == "read":
            self._compare(data, result)
        if end == "read" or end.startswith("Recursion") or self.record.counts["inputs"] % 20 == 0:
            self._load(data)
        return end

    def _compare(self, data: bytes, result: dict[str, Any]) -> None:
        self.record.counts["read"] += 1
        if self.odd_state:
            return
        unframed = b"".join(part for part in opcodes(data) if part[:1] != b"\x95")
        try:
            expected = Reference(io.BytesIO(unframed)).load()
        except Exception:
            self.record.counts["read_though_pickle_refuses"] += 1
            return
        self.record.counts["compared"] += 1
        if plain_tree(expected) != plain_tree(result):
            self.record.finding("read differently", f"{plain_tree(expected)!r:.500}\n{plain_tree(result)!r:.500}")

    def _load(self, data: bytes) -> None:
        path = self.record.folder / "mask.pkl"
        path.write_bytes(data)
        for call in (lth.load_mask, records.read_mask):
            try:
                call(path)
            except lth.InputError as error:
                if len(str(error)) > LONG_MESSAGE:
                    self.record.finding("a long message", str(error))
            except Exception as error:
                self.record.finding(f"{call.__name__}: {site(error)}", traceback.format_exc())


def megabytes() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def plain_tree(value: Any) -> Any:
    """Return the parts of a tree that are compared."""
    if isinstance(value, dict):
        return {key: plain_tree(part) for key, part in value.items()}
    if not isinstance(value, np.ndarray | np.generic):
        return f"a {type(value).__name__}"
    array = np.asarray(value).astype(value.dtype.newbyteorder("="))
    return array.dtype.str, array.shape, array.tobytes()


def valid_pickles() -> list[bytes]:
    """Return dicts of arrays of every dtype and order at every protocol, with the names of NumPy 1 and of NumPy 2."""
    codes = ["?", "i1", "u1", "i2", "<u2", ">i4", "<i8", "f2", "f4", ">f8"]
    leaves = {code: np.arange(6).reshape(2, 3).astype(code) for code in codes}
    odd = {
        "scalar": np.float32(2),
        "zero": np.zeros(()),
        "none": np.zeros((0, 4)),
        "é\n": np.int64(-1),
        "deep": {"a": {}},
    }
    trees = [
        *({code: leaf, "fortran": np.asfortranarray(leaf)} for code, leaf in leaves.items()),
        {"actor": {"layer_0": {"kernel": leaves["f4"], "bias": np.ones(3, bool)}}, "critic": {"q": leaves["f4"].T}},
        {"same": leaves["f4"], "again": leaves["f4"], "view": leaves["i1"][::-1, ::2], "mask": np.ones(300, np.uint8)},
        odd,
    ]
    newer = [pickle.dumps(tree, protocol) for tree in trees for protocol in range(6)]
    older = [
        data.replace(b"numpy._core", b"numpy.core") for i, data in enumerate(newer) if i % 6 < 4
    ]  # no lengths in it
    return newer + older


def hostile_pickles(folder: Path) -> list[bytes]:
    """Return the hostile pickles of the tests, except the largest."""
    tree, marker = pickle.loads(valid_pickles()[0]) | {"critic": {"q1": {}}}, str(folder / "marker")
    code = [make(tree, marker) for make, _ in hostile.CODE.values()]
    exhausting = [hostile.entry(value, 5) for value in hostile.EXHAUSTING.values()]
    return [data for data in (*code, *exhausting) if len(data) < 5000]
