"""`authz token issue`, run as a person runs it; its tokens judged by PyJWT."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jwt
import pytest

from authz.check.jwe import Opener
from authz.cli.main import main
from authz.keys.encryption import parse_decryption_keys
from authz.keys.generate import generate_key
from authz.keys.keyfile import write_keys

KEY = generate_key("ec")
SECRET = "a secret of at least thirty-two bytes"
ISSUER = "https://issuer.example"
NEEDED = ("--issuer", ISSUER, "--subject", "alice", "--audience", "api")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`authz token issue` with these arguments, in a folder with a key, a secret and settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)
    write_keys(Path("signing.json"), [KEY], replace=False)
    Path("secret").write_text(SECRET + "\n")
    Path("secret").chmod(0o600)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["authz", "token", "issue", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


def configure(*issuers: str) -> None:
    Path("authz.yaml").write_text("issuers:\n" + "".join(f"  - {issuer}\n" for issuer in issuers))


def claims(done: Done) -> dict[str, Any]:
    """Of a token that was printed, and nothing beside it."""
    assert done.code == 0, done.err
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.out)
    token = done.out.strip()
    header = jwt.get_unverified_header(token)
    key: Any = SECRET if header["alg"].startswith("HS") else jwt.PyJWK(KEY)
    options: Any = {"verify_aud": False}
    found = jwt.decode(token, key, algorithms=[header["alg"]], options=options)
    assert isinstance(found, dict)
    return found


def test_a_token_says_who_where_and_how_long(run: Run) -> None:
    before = int(time.time())
    done = run("--key", "signing.json", *NEEDED)
    found = claims(done)
    assert done.err == ""
    assert found.keys() == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert (found["iss"], found["sub"], found["aud"]) == (ISSUER, "alice", "api")
    assert before <= found["iat"] <= time.time()
    assert found["exp"] - found["iat"] == 15 * 60
    assert jwt.get_unverified_header(done.out.strip())["kid"] == KEY["kid"]


def test_each_token_has_a_jti_of_its_own(run: Run) -> None:
    first, second = (claims(run("--key", "signing.json", *NEEDED))["jti"] for _ in range(2))
    assert first != second
    assert claims(run("--key", "signing.json", *NEEDED, "--jti", "mine"))["jti"] == "mine"
    assert "jti" not in claims(run("--key", "signing.json", *NEEDED, "--jti", "none"))


def test_audiences_and_scopes_may_be_several(run: Run) -> None:
    found = claims(
        run(
            "--key", "signing.json", *NEEDED, "--audience", "admin",
            "--scope", "read write", "--scope", "audit",
        )
    )  # fmt: skip
    assert found["aud"] == ["api", "admin"]
    assert found["scope"] == "read write audit"


def test_other_claims_are_json(run: Run) -> None:
    found = claims(
        run("--key", "signing.json", *NEEDED, "--claim", 'a="x=y"', "--claim", "b=[1, null]")
    )
    assert (found["a"], found["b"]) == ("x=y", [1, None])


def test_a_secret_signs_too(run: Run) -> None:
    done = run("--secret-file", "secret", *NEEDED)
    assert claims(done)["sub"] == "alice"
    assert jwt.get_unverified_header(done.out.strip()) == {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (NEEDED, "give --key FILE or --secret-file FILE"),
        (("--key", "signing.json", "--secret-file", "secret", *NEEDED), "not both"),
        (("--key", "signing.json", "--subject", "a", "--audience", "b"), "--issuer is missing"),
        (("--key", "signing.json", "--subject", "a", "--issuer", "b"), "--audience is missing"),
        (("--key", "signing.json", "--issuer", "a", "--audience", "b"), "--subject"),
        (("--key", "signing.json", *NEEDED, "--algorithm", "HS256"), "goes with a secret"),
        (("--key", "signing.json", *NEEDED, "--expires-in", "25h"), "not between 1s and 24h"),
        (("--key", "signing.json", *NEEDED, "--expires-in", "0"), "not a duration"),
        (("--key", "signing.json", *NEEDED, "--expires-in", "10ms"), "not between 1s and 24h"),
        (("--key", "signing.json", *NEEDED, "--claim", "exp=1"), "exp: use --expires-in"),
        (("--key", "signing.json", *NEEDED, "--claim", "iat=1"), "iat is now"),
        (("--key", "signing.json", *NEEDED, "--claim", "a=b"), "a: the value is not JSON"),
        (("--key", "signing.json", *NEEDED, "--claim", "a"), "write it as name=value"),
        (("--key", "signing.json", *NEEDED, "--scope", 'a"b'), "a character that no scope"),
        (("--key", "signing.json", *NEEDED, "--config", "missing.yaml"), "--config missing.yaml"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(
    run: Run, arguments: tuple[str, ...], problem: str
) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "content", "problem"),
    [
        ("--key", None, "No such file"),
        ("--key", "{}", "is not a JWK Set"),
        ("--secret-file", None, "No such file"),
        ("--secret-file", "short", "the secret has 5 bytes; HS256 needs at least 32"),
    ],
)
def test_a_key_that_can_not_be_used_is_one_line_that_names_the_file(
    run: Run, option: str, content: str | None, problem: str
) -> None:
    if content is not None:
        Path("bad").write_text(content)
        Path("bad").chmod(0o600)
    done = run(option, "bad", *NEEDED)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"authz: bad: {problem}")
    assert done.err.count("\n") == 1


def test_the_settings_give_issuer_and_audience(run: Run) -> None:
    configure(
        "{issuer: https://a.example, audiences: [one, two], algorithms: [ES256], "
        "keys: {jwks_file: jwks.json}, max_lifetime: 10m}"
    )
    done = run("--config", "authz.yaml", "--key", "signing.json", "--subject", "alice")
    found = claims(done)
    assert done.err == ""
    assert (found["iss"], found["aud"]) == ("https://a.example", "one")
    assert found["exp"] - found["iat"] == 10 * 60


def test_the_settings_may_come_from_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(
        f"{{issuer: {ISSUER}, audiences: [x], algorithms: [HS256], keys: {{secret_file: secret}}}}"
    )
    monkeypatch.setenv("AUTHZ_CONFIG", "authz.yaml")
    assert claims(run("--subject", "alice"))["aud"] == "x"


def test_the_settings_give_the_secret_and_its_algorithm(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_SECRET", SECRET)
    configure(
        "{issuer: https://a.example, audiences: [x], algorithms: [HS256], "
        "keys: {secret_env: THE_SECRET}}",
        "{issuer: https://b.example, audiences: [x], algorithms: [HS256], "
        "keys: {secret_file: secret}}",
    )
    for issuer in ("https://a.example", "https://b.example"):
        done = run("--config", "authz.yaml", "--issuer", issuer, "--subject", "alice")
        assert claims(done)["iss"] == issuer
    done = run("--config", "authz.yaml", "--subject", "alice")
    assert done.code == 2
    assert "--issuer is missing; authz.yaml has https://a.example, https://b.example" in done.err
    monkeypatch.delenv("THE_SECRET")
    done = run("--config", "authz.yaml", "--issuer", "https://a.example", "--subject", "alice")
    assert (done.code, done.err) == (1, "authz: THE_SECRET: the environment variable is not set\n")


def test_a_token_that_the_sidecar_will_refuse_is_printed_with_a_warning(run: Run) -> None:
    """It may be wanted, to see the refusal."""
    configure(
        f"{{issuer: {ISSUER}, audiences: [api], algorithms: [RS256], "
        "keys: {jwks_file: jwks.json}, max_lifetime: 1h}"
    )
    done = run("--config", "authz.yaml", "--key", "signing.json", *NEEDED, "--expires-in", "2h")
    assert claims(done)["iss"] == ISSUER
    assert "ES256 is not among the issuer's algorithms" in done.err
    assert "longer than the issuer's max_lifetime of 1h" in done.err


def test_it_helps_with_an_example(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    assert "Example:\n    authz token issue --key signing.json" in done.out


def test_a_token_is_encrypted_to_the_first_key_of_a_file(run: Run) -> None:
    key = generate_key("ec", use="enc")
    write_keys(Path("enc.json"), [key, generate_key("ec", use="enc")], replace=False)
    done = run("--key", "signing.json", *NEEDED, "--encrypt-to", "enc.json")
    assert done.code == 0, done.err
    opening = parse_decryption_keys(Path("enc.json").read_bytes(), ["ECDH-ES"]).keys
    ring = SimpleNamespace(keys=opening)
    opened = Opener({ISSUER: ring}).open(done.out.strip())
    assert opened.key.kid == key["kid"]
    assert jwt.decode(opened.token, options={"verify_signature": False})["sub"] == "alice"


def test_a_file_that_has_no_key_to_encrypt_to_is_told(run: Run) -> None:
    done = run("--key", "signing.json", *NEEDED, "--encrypt-to", "signing.json")
    assert done == Done(
        1, "",
        "authz: signing.json: holds no key to encrypt to, for RSA-OAEP-256, ECDH-ES\n",
    )  # fmt: skip
