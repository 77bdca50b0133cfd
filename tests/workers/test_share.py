"""What of the settings is each worker's own."""

from pathlib import Path
from typing import Any

import pytest

from authz.settings import Settings, SettingsError
from authz.workers.share import audit_path, require_shareable, settings_of

ISSUER = {
    "issuer": "https://issuer.example",
    "audiences": ["api"],
    "algorithms": ["RS256"],
    "keys": {"jwks_file": "jwks.json"},
}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"issuers": [ISSUER], "workers": 2, **changes})


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/var/log/authz/audit.jsonl", "/var/log/authz/audit.worker-3.jsonl"),
        ("/var/log/authz/audit", "/var/log/authz/audit.worker-3"),
        ("relative/a.b.jsonl", "relative/a.b.worker-3.jsonl"),
    ],
)
def test_each_worker_has_an_audit_file_of_its_own(path: str, own: str) -> None:
    assert audit_path(Path(path), 3) == Path(own)
    made = settings_of(settings(audit={"path": path}), 3)
    assert made.audit.path == Path(own)
    assert made.audit.required is True


def test_no_audit_stays_none() -> None:
    made = settings_of(settings(audit={"path": None, "required": False}), 0)
    assert made.audit.path is None


def test_a_worker_listens_nowhere_and_shares_the_rest() -> None:
    whole = settings(cache={"tokens": 7}, store={"url": "redis://h", "password": "pw"})
    made = settings_of(whole, 0)
    assert made.listen == []
    assert (made.cache, made.store, made.issuers) == (whole.cache, whole.store, whole.issuers)


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "/dev/null"])
def test_what_is_no_file_can_not_be_shared_and_the_error_says_what_to_do(path: str) -> None:
    with pytest.raises(SettingsError, match=rf"^audit\.path: {path}: each worker writes a file"):
        require_shareable(settings(audit={"path": path}))


def test_nor_can_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^audit\.path: "):
        require_shareable(settings(audit={"path": str(tmp_path)}))


def test_a_file_that_exists_and_one_that_does_not_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    require_shareable(settings(audit={"path": str(path)}))
    path.touch()
    require_shareable(settings(audit={"path": str(path)}))


def test_grpcio_is_for_one_process() -> None:
    one = settings(workers=1, transport="grpcio")
    with pytest.raises(SettingsError, match=r"^workers: more than one needs transport: native$"):
        require_shareable(one.model_copy(update={"workers": 2}))
