"""What of the settings is each worker's own, and what several can't share."""

from pathlib import Path

from authz.settings import Settings, SettingsError


def require_shareable(settings: Settings) -> None:
    """SettingsError: these settings are for one process."""
    if settings.transport != "native":
        raise SettingsError("workers: more than one needs transport: native")
    path = settings.audit.path
    if path is None:
        return
    if path.is_relative_to("/dev") or path.is_relative_to("/proc") or _is_no_file(path):
        # Several writers to one pipe tear each other's lines, and one order is one file's.
        raise SettingsError(
            f"audit.path: {path}: each worker writes a file of its own, so give the path of a file"
        )


def settings_of(settings: Settings, worker: int) -> Settings:
    """The settings of one worker: connections come from the parent, and the audit has a file, and
    with it an order of records, per worker.
    """
    audit = settings.audit
    if audit.path is not None:
        audit = audit.model_copy(update={"path": audit_path(audit.path, worker)})
    return settings.model_copy(update={"listen": [], "audit": audit})


def audit_path(path: Path, worker: int) -> Path:
    """`audit.jsonl` to `audit.worker-0.jsonl`: the same file after every restart."""
    return path.with_name(f"{path.stem}.worker-{worker}{path.suffix}")


def _is_no_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file()
    except OSError:  # what is wrong with it, the audit will say
        return False
