"""Build wheels with setuptools, and compile the native kernel into them.

Where there is a C++ compiler, a wheel contains the kernel for all instruction sets of the machine's architecture and has a platform
tag. Otherwise, or with LTH_NATIVE=0 in the environment, it is a pure Python wheel. Editable installations contain no kernel.
"""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import compiling  # src/lth/sparse, by backend-path in pyproject.toml
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks that are not overridden
from setuptools.command.bdist_wheel import bdist_wheel

HEADERS = ["jaxlib>=0.10,<0.11; python_version < '3.15'", "jaxlib>=0.10; python_version >= '3.15'"]
"""The oldest supported jaxlib for each Python, because XLA accepts kernels for older versions of its FFI but not for newer ones."""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return the build requirements of a wheel: jaxlib for its headers, if the kernel can be compiled."""
    requires: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    try:
        compiling.instruction_sets()
        compiling.compiler()
    except compiling.Unavailable:
        return requires
    return [*requires, *HEADERS]


class WheelWithKernel(bdist_wheel):
    """Add the kernel to a wheel."""

    def run(self) -> None:
        """Build the wheel."""
        self.run_command("build")
        folder = Path(self.get_finalized_command("build").build_lib) / "lth" / "sparse"
        for stale in folder.glob("kernel-*.so"):  # from a previous build in this checkout
            stale.unlink()
        compile_kernels(folder)
        if any(folder.glob("kernel-*.so")):
            self.root_is_pure = False
            self.distribution.has_ext_modules = lambda: True  # `install` asks this, bdist_wheel root_is_pure
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag. The kernel does not use Python's API, so the wheel fits every version of Python."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


def compile_kernels(folder: Path) -> None:
    """Compile the kernel for every instruction set; prints why one is left out."""

    def compile_one(instruction_set: str) -> None:
        try:
            compiling.compile_kernel(folder, instruction_set, headers)
        except compiling.Unavailable as error:
            print(f"the wheel has no kernel for {instruction_set}: {error}", file=sys.stderr)

    try:
        instruction_sets = compiling.instruction_sets()
        compiling.compiler()
        headers = _headers()
    except compiling.Unavailable as error:
        print(f"the wheel has no kernel: {error}", file=sys.stderr)
        return
    with ThreadPoolExecutor() as threads:
        list(threads.map(compile_one, instruction_sets))


def _headers() -> Path:
    """Return the folder that jax.ffi.include_dir() returns where JAX is installed."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        raise compiling.Unavailable("jaxlib, whose headers it needs, is not installed in the build environment")
    return Path(spec.origin).parent / "include"
