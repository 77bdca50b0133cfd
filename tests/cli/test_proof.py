"""`authz token proof`, run as a person runs it; its proofs judged by the verifier."""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jwt
import pytest

from authz.check.proof import Expected, Proof, ProofVerifier
from authz.cli.main import main
from authz.keys.generate import KeyType, generate_key
from authz.keys.keyfile import write_keys

URL = "https://api.example/orders"


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`authz token` with these arguments, in a folder with keys, and this on standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)
    kinds: tuple[KeyType, ...] = ("rsa", "ec", "ed25519")
    for kind in kinds:
        write_keys(Path(f"{kind}.json"), [generate_key(kind)], replace=False)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["authz", "token", *arguments])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out.removesuffix("\n"), captured.err)

    return run


def judged(proof: str, token: str | None, method: str = "GET") -> object:
    """By whoever gets it; for a token, by the key that it is bound to."""
    jkt = None
    if token is not None:
        jkt = jwt.decode(token, options={"verify_signature": False})["cnf"]["jkt"]
    verifier = ProofVerifier(max_age=60, leeway=5, nonces=None)
    return verifier.verify(proof, Expected(method, [URL], token, jkt), time.time())


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_a_proof_goes_with_a_token_that_is_bound_to_the_same_key(run: Run, kind: str) -> None:
    issued = run(
        "issue", "--key", "ec.json", "--issuer", "https://issuer.example", "--subject", "alice",
        "--audience", "api", "--bind-to", f"{kind}.json",
    )  # fmt: skip
    token = issued.out
    made = run("proof", "--key", f"{kind}.json", "--url", URL, "-", stdin=token.encode())
    assert (made.code, made.err) == (0, "")
    assert isinstance(judged(made.out, token), Proof)
    again = run("proof", "--key", f"{kind}.json", "--url", URL, token)
    assert again.out != made.out


def test_without_a_token_it_is_for_asking_for_one(run: Run) -> None:
    """The query of the URL is no part of it."""
    made = run("proof", "--key", "ec.json", "--method", "post", "--url", f"{URL}?x=1#y")
    assert isinstance(judged(made.out, None, "POST"), Proof)
    assert jwt.decode(made.out, options={"verify_signature": False}).keys() == {
        "jti", "htm", "htu", "iat",
    }  # fmt: skip


def test_the_private_key_stays_at_home(run: Run) -> None:
    made = run("proof", "--key", "rsa.json", "--url", URL, "--nonce", "n")
    assert jwt.get_unverified_header(made.out)["jwk"].keys() == {"kty", "n", "e"}
    assert jwt.decode(made.out, options={"verify_signature": False})["nonce"] == "n"


def test_what_cannot_be_used_is_said_in_one_line(run: Run) -> None:
    for arguments, code, said in (
        (("--url", URL), 2, "--key"),
        (("--key", "none.json", "--url", URL), 1, "none.json: "),
        (("--key", "ec.json", "--url", "api.example"), 2, "--url 'api.example'"),
    ):
        failed = run("proof", *arguments)
        assert (failed.code, failed.out, failed.err.count("\n")) == (code, "", 1)
        assert said in failed.err


def test_a_key_of_an_algorithm_that_no_proof_may_have_is_refused(run: Run) -> None:
    write_keys(Path("rs512.json"), [{**generate_key("rsa"), "alg": "RS512"}], replace=False)
    failed = run("proof", "--key", "rs512.json", "--url", URL)
    assert failed.code == 1
    assert "rs512.json: signs with RS512; proofs are signed with ES256, " in failed.err
