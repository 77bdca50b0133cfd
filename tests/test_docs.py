"""What the documents say is compared with the code: a reader must not find out by trying."""

import ast
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import click
import pytest
import yaml
from pydantic import BaseModel

from authz import __version__
from authz.check.policy import PolicyError, RoutePolicies
from authz.check.verdict import Reason
from authz.cli.main import app
from authz.durations import parse_duration
from authz.settings import CONFIG_VARIABLE, ENV_NESTING, ENV_PREFIX, Settings

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
ANSWERS = REPOSITORY / "authz/check/README.md"
"""Has the answers, and what a route can ask for."""
REFERENCE = REPOSITORY / "authz/settings/README.md"
"""Has the settings, and the rights in the store."""

FOLDERS = ("authz", "envoy", "tests", "k8s", "loadtest")
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(path for one in FOLDERS for path in (REPOSITORY / one).rglob("*.md")),
    ]
)

USERS_FOLDERS = ("check", "keys", "relay", "revocation", "settings", "tokens")
"""Whose documents are for who sets authz up, too."""

MAX_README = 320
"""Lines. Twice as many, and nobody finds the beginning."""

NOT_SET = "\N{EN DASH}"
"""The default of a setting that is not set; empty where it must be given."""


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    """The document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text_of(path), flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code."""

    path: Path
    language: str
    text: str


def blocks_of(path: Path) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE):
        yield Block(path, match[1], match[2])


def table_under(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of the table with these columns."""
    lines = iter(text_of(path).splitlines())
    for line in lines:
        if cells_of(line) == list(columns):
            next(lines)
            rows: list[dict[str, str]] = []
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append(dict(zip(columns, cells_of(row), strict=True)))
            return rows
    raise AssertionError(f"{path.name} has no table with the columns {columns}")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def code(cell: str) -> str:
    """What stands between the first pair of backticks, else nothing."""
    found = re.search(r"`([^`]*)`", cell)
    return found[1] if found else ""


# The answers


def test_the_table_of_answers_has_every_reason_with_its_status_and_error() -> None:
    rows = table_under(ANSWERS, "status", "reason", "error", "when")
    written = {code(row["reason"]): (row["status"], code(row["error"])) for row in rows}
    assert len(written) == len(rows)
    meant = {
        str(reason): (
            "200 or 503" if reason is Reason.STORE_UNAVAILABLE else str(reason.value.status),
            reason.value.error,
        )
        for reason in Reason
    }
    assert written == meant
    assert all(row["when"] for row in rows)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_reason_beside_a_status_is_one_that_exists_with_that_status(path: Path) -> None:
    """As in: 503 `store_unavailable`."""
    statuses = {str(reason): reason.value.status for reason in Reason}
    for status, word in re.findall(
        r"\b(401|403|500|503)(?:,| reason|:)* `([a-z_]+)`", prose_of(path)
    ):
        assert statuses.get(word) == int(status), f"{status} `{word}`"


# The settings


class Leaf(NamedTuple):
    default: Any
    required: bool


def leaves_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Each setting as a dotted name; `issuers[]` for what each issuer has."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if is_section(one)]
        if inner:
            many = "[]" if get_origin(field.annotation) is list else ""
            yield from leaves_of(inner[0], f"{prefix}{name}{many}.")
        else:
            yield f"{prefix}{name}", Leaf(field.default, field.is_required())


def is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


SETTINGS = dict(leaves_of(Settings))


def test_the_table_of_settings_has_every_setting_with_its_default() -> None:
    rows = table_under(REFERENCE, "setting", "default", "means")
    assert [code(row["setting"]) for row in rows if not row["means"]] == []
    said = {name for name in SETTINGS if not is_said_already(name)}
    assert sorted(code(row["setting"]) for row in rows) == sorted(said)
    for row in rows:
        name = code(row["setting"])
        leaf = SETTINGS[name]
        if leaf.required or leaf.default is None:
            expected = "" if leaf.required else NOT_SET
            assert row["default"] == expected, name
        else:
            assert comparable(code(row["default"])) == plain(leaf.default), name


def is_said_already(name: str) -> bool:
    """Providers whose users the token service takes over are described as `issuers[]` are."""
    inner = name.removeprefix("tokens.exchange.")
    return inner != name and inner in SETTINGS


def comparable(text: str) -> object:
    """A default as the table writes it: YAML, or a duration."""
    value = yaml.safe_load(text)
    try:
        return parse_duration(value)
    except ValueError:
        return value


def plain(default: Any) -> object:
    if hasattr(default, "get_secret_value"):
        return default.get_secret_value()
    return str(default) if isinstance(default, Path) else default


def settings_blocks() -> list[Block]:
    """Blocks of YAML whose keys are settings; envoy/README.md shows Envoy's own YAML as well."""
    found = [
        block
        for path in DOCUMENTS
        for block in blocks_of(path)
        if block.language == "yaml"
        and isinstance(content := yaml.safe_load(block.text), dict)
        and content.keys() & Settings.model_fields.keys()
    ]
    assert found
    return found


@pytest.mark.parametrize("block", settings_blocks(), ids=lambda block: block.path.parent.name)
def test_every_yaml_that_is_shown_is_accepted(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_variables(monkeypatch)
    complete = {"issuers": [EXAMPLE_ISSUER], **yaml.safe_load(block.text)}
    Settings(**complete)


EXAMPLE_ISSUER = {
    "issuer": "https://issuer.example",
    "audiences": ["api"],
    "algorithms": ["RS256"],
    "keys": {"jwks_file": "jwks.json"},
}


def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of whoever runs the tests must not decide."""
    for name in [one for one in os.environ if one.upper().startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


def test_every_variable_that_is_named_sets_something() -> None:
    for path in DOCUMENTS:
        for name in re.findall(rf"\b{ENV_PREFIX}[A-Z_]+\b", text_of(path)):
            if name == CONFIG_VARIABLE:
                continue
            dotted = name.removeprefix(ENV_PREFIX).lower().replace(ENV_NESTING, ".")
            sections = {one.rpartition(".")[0] for one in SETTINGS}
            assert dotted in SETTINGS or dotted in sections, f"{path.name}: {name}"


NAMING = (README, *(REPOSITORY / "authz" / one / "README.md" for one in USERS_FOLDERS))


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_settings_that_are_named_exist(path: Path) -> None:
    """Names such as `store.timeout`, whose first part is a section of the settings."""
    tops = {name.partition(".")[0] for name in SETTINGS if "." in name and "[" not in name}
    sections = {name.rpartition(".")[0].replace("[]", "") for name in SETTINGS}
    for name in re.findall(r"`((?:\w+\.)+\w+)`", text_of(path)):
        if name.partition(".")[0] in tops and not re.search(r"\.(py|lua|md|jsonl?)$", name):
            assert name in SETTINGS or name in sections, name


def test_the_readme_stays_short() -> None:
    """What is looked up stands in the folders; here is what a newcomer reads."""
    assert len(text_of(README).splitlines()) <= MAX_README


# The commands


def commands_of(block: Block) -> Iterator[list[str]]:
    """Words of each line that calls authz or make, continued lines joined. Where the block shows
    output as well, a command begins with `$`.
    """
    for line in block.text.replace("\\\n", " ").splitlines():
        prompt, command = ("$ ", line[2:]) if line.startswith("$ ") else ("", line)
        if prompt or block.language == "sh":
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables before a command
                words.pop(0)
            if words and words[0] in {"authz", "make"}:
                yield words


def shown_commands() -> list[tuple[Path, list[str]]]:
    found = [
        (path, words)
        for path in DOCUMENTS
        for block in blocks_of(path)
        for words in commands_of(block)
    ]
    inline = [
        (path, shlex.split(text))
        for path in DOCUMENTS
        for text in re.findall(r"`((?:authz|make) [^`\N{HORIZONTAL ELLIPSIS}<]+)`", prose_of(path))
    ]
    return found + inline


@pytest.mark.parametrize(
    "words",
    [words for _, words in shown_commands() if words[0] == "authz"],
    ids=lambda words: "-".join(words[:3]),
)
def test_every_command_that_is_shown_exists_with_its_options(words: list[str]) -> None:
    command: click.Command = app
    context = click.Context(app)
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"there is no {rest[0]!r} in {shlex.join(words)}"
        command, rest = inner, rest[1:]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= options | {"--help", "--version"}, shlex.join(words)


@pytest.mark.parametrize(
    "words", [words for _, words in shown_commands() if words[0] == "make"], ids=shlex.join
)
def test_every_make_target_that_is_shown_exists(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(REPOSITORY / "Makefile"), re.MULTILINE))
    assert {word for word in words[1:] if "=" not in word} <= targets, shlex.join(words)


def test_the_commands_of_the_first_section_are_shown() -> None:
    shown = [words for path, words in shown_commands() if path == README]
    assert ["make", "demo"] in shown
    assert ["make", "test"] in shown


def test_every_command_is_named_in_the_readme() -> None:
    named = {words[1] for path, words in shown_commands() if path == README and words[0] == "authz"}
    assert named == set(app.list_commands(click.Context(app))) - {"demo"}  # `make demo` it is


@pytest.mark.parametrize(
    "words", [w for _, w in shown_commands() if "--route" in w], ids=shlex.join
)
def test_every_route_policy_that_is_shown_is_one(words: list[str]) -> None:
    """`/path:policy` for `authz envoy`, the policy alone for `authz explain`."""
    for position, word in enumerate(words):
        if word == "--route":
            policy = words[position + 1]
            policy = policy.partition(":")[2] if policy.startswith("/") else policy
            if policy != "disabled":
                RoutePolicies("open").of(dict(pair.split("=", 1) for pair in policy.split(",")))


def test_the_table_of_route_policies_says_what_is_accepted() -> None:
    rows = table_under(ANSWERS, "key", "value", "means")
    for row in rows:
        for value in re.findall(r"`([^`]*)`", row["value"]):
            RoutePolicies("open").of({code(row["key"]): value})
        with pytest.raises(PolicyError):
            RoutePolicies("open").of({f"{code(row['key'])}x": "required"})
    assert {code(row["key"]) for row in rows} == {
        f"authz.{name}"
        for name in (
            "mode", "scopes", "audience", "fail_mode", "require_https", "csrf", "binding", "use",
        )
    }  # fmt: skip


# The rights in the store


def test_the_rights_in_the_store_are_those_that_are_tested() -> None:
    """authz/revocation/README.md has them too, and tests/revocation tries each of them."""
    rules = re.findall(r"^ACL SETUSER \S+\s+on >PASSWORD (.*)$", text_of(REFERENCE), re.MULTILINE)
    assert len(rules) == 2
    tried = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text_of(REPOSITORY / "tests/revocation/redis/test_rights.py")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    expected = [tried[name].removeprefix("on >pw ") for name in ("CHECKING", "REVOKING")]
    assert [set(rule.split()) for rule in rules] == [set(rule.split()) for rule in expected]


# The threats


def test_every_defence_names_a_test_that_proves_it() -> None:
    """But for what is said not to be stopped, or to be in somebody else's hands."""
    threats = text_of(REPOSITORY / "SECURITY.md").partition("\n## Threats\n")[2]
    defences = re.findall(r"^- (?!\*\*)(.*)$", threats.partition("\n## ")[0], re.MULTILINE)
    assert len(defences) > 50
    for defence in defences:
        assert "(tests/" in defence or "`make chaos`" in defence, defence


# Links and names


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{target} leads nowhere"
        assert there.is_relative_to(REPOSITORY), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors_of(there), f"{target}: there is no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_that_are_named_exist(path: Path) -> None:
    """Such as `check/verifier.py`: from the document's folder, the package, or the top."""
    bases = (path.parent, REPOSITORY / "authz", REPOSITORY / "tests", REPOSITORY)
    for name in re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|lua|md|yaml|proto|svg))`", prose_of(path)):
        if not name.startswith("/"):
            assert any((base / name).exists() for base in bases), name


def test_the_version_has_an_entry_in_the_changelog() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", text_of(REPOSITORY / "CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert __version__ in headings


def test_the_licence_is_the_whole_of_apache_2() -> None:
    text = text_of(REPOSITORY / "LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert [int(n) for n in re.findall(r"^ {3}(\d)\. ", text, re.MULTILINE)] == [*range(1, 10)]


def test_nobody_is_told_to_install_a_stranger() -> None:
    """The name `authz` on PyPI belongs to another project."""
    places = [*DOCUMENTS, *(REPOSITORY / "authz").rglob("*.py")]
    for path in places:
        found = re.search(r"pip install (?:-\S+ )*['\"]?authz\b", text_of(path))
        assert found is None, f"{path.relative_to(REPOSITORY)}: {found[0] if found else ''}"
