"""`python -m fuzz.one TARGET ARGUMENT...`: libFuzzer, by atheris, with its own arguments."""

import sys
from importlib import import_module
from typing import Any

atheris: Any = import_module("atheris")  # it isn't there on every platform, and has no types

with atheris.instrument_imports(include=["authz", "hpack"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
