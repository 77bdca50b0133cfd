"""The list of log events, and that the package logs no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import authz
from authz.observe import events

PACKAGE = Path(authz.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def logged_events() -> Iterator[tuple[str, ast.expr]]:
    """Where `log.<level>(…)` is called in the package, and its first argument."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[first, *_]
                ) if level in LEVELS:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", first


@pytest.mark.parametrize(("where", "event"), list(logged_events()))
def test_every_event_that_is_logged_is_declared(where: str, event: ast.expr) -> None:
    """By its constant: a text at the call would be a name that no list knows."""
    match event:
        case ast.Attribute(value=ast.Name(id="events"), attr=name):
            assert getattr(events, name) in events.MEANINGS
        case _:
            pytest.fail(f"{where}: log an event of authz/observe/events.py, not a text")


def test_every_constant_is_an_event_and_every_event_a_constant() -> None:
    constants = {
        name: value for name, value in vars(events).items() if name.isupper() and name != "MEANINGS"
    }
    assert constants == {name.upper(): name for name in events.MEANINGS}


def test_the_readme_tables_every_event() -> None:
    readme = (PACKAGE / "observe" / "README.md").read_text(encoding="utf-8")
    events_table = readme.partition("## Log events")[2]
    table = re.findall(r"^\| `(\w+)` \| (.+) \|$", events_table, re.MULTILINE)
    assert table == list(events.MEANINGS.items())
