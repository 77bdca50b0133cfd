"""`authz keys`, run as a person runs it: arguments in, exit code, stdout, stderr and files out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest

from authz.cli.main import main
from authz.settings import ALGORITHMS

PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`authz` with these arguments, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["authz", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


def keys(path: str) -> list[dict[str, Any]]:
    found = json.loads(Path(path).read_text())["keys"]
    assert isinstance(found, list)
    return found


def kids(path: str) -> list[str]:
    return [key["kid"] for key in keys(path)]


@pytest.mark.parametrize(
    ("arguments", "algorithm"),
    [
        ((), "RS256"),
        (("--type", "rsa", "--bits", "3072"), "RS256"),
        (("--type", "ec"), "ES256"),
        (("--type", "ec", "--curve", "P-384"), "ES384"),
        (("--type", "ed25519"), "EdDSA"),
    ],
)
def test_generate_writes_a_private_and_a_public_file(
    run: Run, arguments: tuple[str, ...], algorithm: str
) -> None:
    done = run("keys", "generate", *arguments, "--out", "signing.json", "--public", "jwks.json")
    assert (done.code, done.err) == (0, "")
    (private,), (public,) = keys("signing.json"), keys("jwks.json")
    assert private["alg"] == public["alg"] == algorithm
    assert private["kid"] in done.out
    assert private["d"] not in done.out
    assert not PRIVATE & public.keys()
    assert Path("signing.json").stat().st_mode & 0o777 == 0o600
    assert Path("jwks.json").stat().st_mode & 0o777 == 0o644


def test_generate_does_not_write_over_keys_unless_told(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    before = kids("signing.json")
    done = run("keys", "generate", "--type", "ec", "--out", "signing.json", "--public", "jwks.json")
    assert done.code == 1
    assert "signing.json exists; add a key to it with `authz keys rotate signing.json`" in done.err
    assert kids("signing.json") == before
    assert not Path("jwks.json").exists()
    assert run("keys", "generate", "--type", "ec", "--out", "signing.json", "--force").code == 0
    assert kids("signing.json") != before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--bits", "1024"), "--bits"),
        (("--bits", "8192"), "--bits"),
        (("--type", "dsa"), "--type"),
        (("--type", "ec", "--curve", "secp256k1"), "--curve"),
        (("--type", "ec", "--bits", "2048"), "--bits goes with --type rsa"),
        (("--curve", "P-256"), "--curve goes with --type ec"),
    ],
)
def test_generate_refuses_what_makes_no_sense(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    done = run("keys", "generate", *arguments, "--out", "signing.json")
    assert done.code == 2
    assert problem in done.err
    assert not Path("signing.json").exists()


def test_a_folder_that_is_not_there_is_one_clear_line(run: Run) -> None:
    done = run("keys", "generate", "--type", "ec", "--out", "missing/signing.json")
    assert done == Done(1, "", "authz: missing/signing.json: No such file or directory\n")


def test_rotate_signs_with_a_new_key_and_drops_the_oldest(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    (first,) = kids("signing.json")
    run("keys", "rotate", "signing.json")
    second = kids("signing.json")[0]
    assert kids("signing.json") == [second, first]
    done = run("keys", "rotate", "signing.json", "--public", "jwks.json")
    third = kids("signing.json")[0]
    assert kids("signing.json") == kids("jwks.json") == [third, second]
    assert done.code == 0
    assert f"added ES256 key {third}\ndropped ES256 key {first}\n" in done.out
    assert Path("signing.json").stat().st_mode & 0o777 == 0o600
    assert not any(PRIVATE & key.keys() for key in keys("jwks.json"))


def test_rotate_keeps_as_many_as_asked(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    for _ in range(3):
        run("keys", "rotate", "signing.json", "--keep", "3")
    assert len(keys("signing.json")) == 3
    run("keys", "rotate", "signing.json", "--keep", "1")
    assert len(keys("signing.json")) == 1
    assert run("keys", "rotate", "signing.json", "--keep", "0").code == 2


def test_rotate_changes_the_type_when_told(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    run("keys", "rotate", "signing.json", "--curve", "P-384")
    run("keys", "rotate", "signing.json", "--keep", "9")
    run("keys", "rotate", "signing.json", "--type", "ed25519", "--keep", "9")
    run("keys", "rotate", "signing.json", "--keep", "9")
    assert [key["alg"] for key in keys("signing.json")] == [
        "EdDSA", "EdDSA", "ES384", "ES384", "ES256",
    ]  # fmt: skip


def test_rotate_in_two_steps_publishes_before_it_signs(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    (old,) = kids("signing.json")
    staged = run("keys", "rotate", "signing.json", "--stage", "--public", "jwks.json")
    assert kids("signing.json")[0] == old
    new = kids("jwks.json")[1]
    assert f"staged ES256 key {new}" in staged.out
    assert keys("jwks.json")[1].keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    for again in (("--stage",), ()):
        done = run("keys", "rotate", "signing.json", *again)
        assert done.code == 1
        assert "is staged" in done.err
    done = run("keys", "rotate", "signing.json", "--activate", "--public", "jwks.json")
    assert f"ES256 key {new} is the one in use from now on" in done.out
    assert kids("signing.json") == kids("jwks.json") == [new, old]
    assert run("keys", "rotate", "signing.json", "--activate").code == 1


@pytest.mark.parametrize("extra", [("--stage",), ("--type", "ec"), ("--bits", "2048")])
def test_activating_goes_alone(run: Run, extra: tuple[str, ...]) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    assert run("keys", "rotate", "signing.json", "--activate", *extra).code == 2


def test_rotate_leaves_a_public_file_alone(run: Run) -> None:
    """It would put a private key where everybody reads."""
    run("keys", "generate", "--type", "ec", "--out", "signing.json", "--public", "jwks.json")
    before = Path("jwks.json").read_text()
    done = run("keys", "rotate", "jwks.json")
    assert done.code == 1
    assert "has no private part" in done.err
    assert Path("jwks.json").read_text() == before


def test_rotate_leaves_a_broken_file_alone(run: Run) -> None:
    Path("signing.json").write_text("{")
    done = run("keys", "rotate", "signing.json")
    assert done.code == 1
    assert done.err.startswith("authz: signing.json: is not JSON")
    assert Path("signing.json").read_text() == "{"


@pytest.mark.parametrize("key_type", ["rsa", "ec", "ed25519"])
def test_jwks_prints_public_keys_only(run: Run, key_type: str) -> None:
    run("keys", "generate", "--type", key_type, "--out", "signing.json")
    done = run("keys", "jwks", "signing.json")
    assert (done.code, done.err) == (0, "")
    (public,) = json.loads(done.out)["keys"]
    (private,) = keys("signing.json")
    assert not PRIVATE & public.keys()
    for name in PRIVATE & private.keys():
        assert private[name] not in done.out
    run("keys", "jwks", "signing.json", "--out", "jwks.json")
    assert Path("jwks.json").read_text() == done.out


def test_a_private_file_that_others_can_read_is_warned_of(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json", "--public", "jwks.json")
    Path("signing.json").chmod(0o640)
    token = ("--issuer", "i", "--subject", "s", "--audience", "a")
    for command in (
        ("keys", "jwks", "signing.json"),
        ("token", "issue", "--key", "signing.json", *token),
        ("keys", "rotate", "signing.json"),  # mends it
    ):
        done = run(*command)
        assert done.code == 0
        assert "others can read it; chmod 600 signing.json" in done.err
    assert run("keys", "jwks", "signing.json").err == ""
    assert run("keys", "jwks", "jwks.json").err == ""


def test_tokens_of_the_last_key_stay_good_and_those_of_dropped_ones_do_not(run: Run) -> None:
    run("keys", "generate", "--type", "ec", "--out", "signing.json")
    options = ("--issuer", "i", "--subject", "s", "--audience", "a")
    tokens = [run("token", "issue", "--key", "signing.json", *options).out.strip()]
    for _ in range(2):
        run("keys", "rotate", "signing.json")
        tokens.append(run("token", "issue", "--key", "signing.json", *options).out.strip())
    published = jwt.PyJWKSet.from_json(run("keys", "jwks", "signing.json").out)
    known = {key.key_id: key for key in published.keys}
    named = [jwt.get_unverified_header(token)["kid"] for token in tokens]
    assert [kid in known for kid in named] == [False, True, True]
    for token, kid in list(zip(tokens, named, strict=True))[1:]:
        jwt.decode(token, known[kid], algorithms=list(ALGORITHMS), audience="a")


@pytest.mark.parametrize("command", ["generate", "rotate", "jwks"])
def test_each_command_helps_with_an_example(run: Run, command: str) -> None:
    done = run("keys", command, "--help")
    assert done.code == 0
    assert f"Example:\n    authz keys {command} " in done.out


# Keys to encrypt to


@pytest.mark.parametrize(
    ("arguments", "algorithm"),
    [
        ((), "RSA-OAEP-256"),
        (("--type", "ec"), "ECDH-ES"),
        (("--type", "ec", "--curve", "P-384"), "ECDH-ES"),
    ],
)
def test_a_pair_for_encryption_is_made_rotated_and_published(
    run: Run, arguments: tuple[str, ...], algorithm: str
) -> None:
    done = run("keys", "generate", "--use", "enc", *arguments, "--out", "enc.json")
    assert (done.code, done.err) == (0, "")
    (first,) = keys("enc.json")
    assert (first["use"], first["alg"]) == ("enc", algorithm)
    assert run("keys", "rotate", "enc.json", "--stage", "--public", "public.json").code == 0
    assert kids("public.json") == kids("enc.json")
    assert kids("public.json")[0] == first["kid"], "a staged key is published, and used by nobody"
    assert run("keys", "rotate", "enc.json", "--activate", "--public", "public.json").code == 0
    assert kids("public.json")[1] == first["kid"]
    for key in keys("public.json"):
        assert (key["use"], key["alg"], key["kty"]) == ("enc", algorithm, first["kty"])
        assert not PRIVATE & key.keys()
    shown = run("keys", "jwks", "enc.json")
    assert json.loads(shown.out)["keys"] == keys("public.json")


def test_rotate_with_a_type_stays_with_the_use_of_the_file(run: Run) -> None:
    run("keys", "generate", "--use", "enc", "--out", "enc.json")
    assert run("keys", "rotate", "enc.json", "--type", "ec").code == 0
    assert [key["use"] for key in keys("enc.json")] == ["enc", "enc"]
    done = run("keys", "rotate", "enc.json", "--type", "ed25519")
    assert done.code == 2
    assert "only signs" in done.err


def test_an_ed25519_key_is_not_encrypted_to(run: Run) -> None:
    done = run("keys", "generate", "--use", "enc", "--type", "ed25519", "--out", "enc.json")
    assert done.code == 2
    assert "only signs" in done.err
    assert not Path("enc.json").exists()
