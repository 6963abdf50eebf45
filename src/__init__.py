"""Makes `src.lth` and `lth` the same modules, for people who run from a checkout."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("lth") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent))


class _SameModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "src.lth" or fullname.startswith("src.lth."):
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def create_module(self, spec):
        module = importlib.import_module(spec.name.removeprefix("src."))
        spec.loader_state = module.__spec__  # the import system is about to put the alias's spec in its place
        return module

    def exec_module(self, module):
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _SameModule())
