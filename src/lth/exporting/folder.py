"""The output folder of an export: one policy, whose formats may be exported one after another, and policy.json."""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json
from .contract import FORMAT, digest

POLICY = "policy.json"
UNFINISHED = "unfinished"
"""The entry of policy.json while files are written: of those that it lists, each is missing or whole."""
_MEASURED = {"versions", "return", "sizes", "times_us", "processor", "checked", "files", UNFINISHED}
"""The entries of policy.json that may differ between exports of one policy."""


def read_earlier(folder: Path) -> dict[str, Any]:
    """Return policy.json of an earlier export into a folder; empty if there is none.

    Raises:
        InputError: policy.json is not of an export.
    """
    path = folder / POLICY
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except ValueError:
        found = None
    parts = ("files", "checked", "times_us", "sizes")
    if isinstance(found, dict) and found.get("format") == FORMAT and all(isinstance(found.get(p), dict) for p in parts):
        return found
    raise InputError(
        f"'{path}' was not written by an export, so nothing was written; move it, or choose another folder (out, --out)"
    )


def is_same(earlier: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Return whether two contracts are of the same policy, with the same names and provenance."""
    one, other = ({k: v for k, v in found.items() if k not in _MEASURED} for found in (earlier, about))
    return one == other


def files_of(earlier: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an earlier export by name; only those inside its folder."""
    root = folder.resolve()
    files = {str(name): str(sha) for name, sha in earlier.get("files", {}).items()}
    return {name: sha for name, sha in files.items() if (folder / name).resolve().is_relative_to(root)}


def format_of(name: str) -> str:
    """Return the format of a file.

    >>> [format_of(name) for name in ("c/src/policy.c", "policy.onnx", "numpy/policy.py", "rollout.npz")]
    ['c', 'onnx', 'numpy', '']
    """
    return {"c": "c", "policy.onnx": "onnx", "numpy": "numpy"}.get(name.partition("/")[0], "")


def formats_in(names: Collection[str]) -> list[str]:
    """Return the formats of files, sorted."""
    return sorted({format_of(name) for name in names} - {""})


def interrupted(earlier: Mapping[str, Any], old: Collection[str], folder: Path) -> list[str]:
    """Return the formats of which an interrupted export did not write all files."""
    return formats_in([name for name in old if not (folder / name).exists()]) if UNFINISHED in earlier else []


def joined(earlier: Mapping[str, Any], about: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """Return the contract of an export with the measurements of the formats that are kept from an earlier one.

    The agent's return is kept where it was not measured again. Times are kept if they are of the same processor.
    """
    rows = {name: row for name, row in earlier["checked"].items() if name.split()[0] in kept}
    times = {name: time for name, time in earlier["times_us"].items() if name in rows}
    own, sizes = about["checked"]["agent"], about["sizes"]
    flash = earlier["sizes"].get("flash_bytes_cortex_m4") if "c" in kept else sizes["flash_bytes_cortex_m4"]
    measured = about["return"] or earlier.get("return")
    return {
        **about,
        "return": measured,
        "sizes": {**sizes, "flash_bytes_cortex_m4": flash},
        "times_us": {**(times if earlier.get("processor") == about["processor"] else {}), **about["times_us"]},
        "checked": {**about["checked"], "agent": {**own, "return": measured}, **rows},
    }


def check_unchanged(folder: Path, earlier: Mapping[str, str], names: Collection[str], new: Mapping[str, str]) -> None:
    """Check that files that would be replaced or removed are as an export wrote them.

    Args:
        folder: the output folder.
        earlier: the SHA-256 of each file of the earlier export.
        names: the files to replace or remove.
        new: the SHA-256 of each file to write.

    Raises:
        InputError: a file was changed, or no export wrote it.
        OSError: a file cannot be read.
    """
    for name in sorted(names):
        path = folder / name
        if path.exists() and digest(path.read_bytes()) not in (earlier.get(name), new.get(name)):
            what = "was changed after it was exported" if name in earlier else "is not listed in its policy.json"
            raise InputError(
                f"'{path}' {what}, so it may be your own and nothing was written; move or delete it, or choose another folder "
                "(out, --out)"
            )


def remove(folder: Path, names: Collection[str]) -> None:
    """Remove files and the folders that this leaves empty, except the output folder itself.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in names:
        (folder / name).unlink(missing_ok=True)
    parents = {parent for name in names for parent in Path(name).parents if parent.name}
    for parent in sorted(parents, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # files of other programs are in it
            (folder / parent).rmdir()
