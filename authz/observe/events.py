"""Every event that authz logs: its name, and one line of meaning.

Messages are constant and data goes in fields: `log.info(events.STORE_CONNECTED, nodes=[...])`.
"""

from typing import Final

MEANINGS: dict[str, str] = {}
"""Name to meaning, in the order of declaration."""


def _event(name: str, meaning: str) -> str:
    MEANINGS[name] = meaning
    return name


# The process
STARTING: Final = _event("starting", "authz begins to serve: its version and settings file")
SERVING: Final = _event("serving", "checks are answered from now on, on the addresses listed")
RELOADING: Final = _event("reloading", "SIGHUP came: keys are read anew and the audit is reopened")
DRAINING: Final = _event("draining", "a signal to stop came: no longer ready, answers go on")
STOPPED: Final = _event("stopped", "everything is closed and the audit is flushed")
LOOP_BLOCKED: Final = _event(
    "loop_blocked", "the event loop stood still for so many seconds and checks waited as long"
)
CHECK_FAILED: Final = _event(
    "check_failed", "a check ended in an error of our own; Envoy got INTERNAL and denies"
)
LISTEN_TLS_UNUSABLE: Final = _event(
    "listen_tls_unusable", "the new files of listen_tls can't be used; the old ones stay in force"
)

# Several workers
WORKER_ENDED: Final = _event(
    "worker_ended", "a worker ended unasked, its connections with it; it is started again"
)
WORKER_HUNG: Final = _event(
    "worker_hung", "a worker doesn't answer: it gets no new connections, and is killed in the end"
)
WORKER_RECOVERED: Final = _event("worker_recovered", "a worker that had hung answers again")
CONNECTIONS_SHED: Final = _event(
    "connections_shed", "so many clients of this worker are sent to those that have fewer"
)
ACCEPT_FAILED: Final = _event(
    "accept_failed", "a connection can't be accepted, for lack of descriptors; it waits a second"
)

# Keys
KEYS_CHANGED: Final = _event(
    "keys_changed", "the key set of an issuer, or of an audience, is another one than before"
)
KEYS_EMPTY: Final = _event("keys_empty", "an issuer's key set has no key: all its tokens fail")
KEYS_QUESTIONABLE: Final = _event("keys_questionable", "a key of the set was left out, and why")
KEYS_FETCHED_IN_THE_CLEAR: Final = _event(
    "keys_fetched_in_the_clear", "an issuer's keys come over http://, so anyone between can forge"
)
KEYS_SOURCE_FAILED: Final = _event(
    "keys_source_failed", "keys could not be read or fetched; the last good set stays in use"
)
KEYS_SOURCE_RECOVERED: Final = _event(
    "keys_source_recovered", "keys could be read or fetched again"
)
KEYS_SOURCE_CRASHED: Final = _event(
    "keys_source_crashed", "fetching keys ended in an error of our own"
)
KEYS_TASK_ENDED: Final = _event(
    "keys_task_ended", "the task that keeps keys fresh ended in an error of our own"
)
KEYS_WATCH_FAILED: Final = _event(
    "keys_watch_failed", "changes of key files can't be watched; it is tried again"
)

KEYS_WITHDRAWN: Final = _event(
    "keys_withdrawn", "some issuer's signing keys were withdrawn: all are fetched anew, at once"
)

# The keys that tokens are signed with
SIGNING_KEYS_CHANGED: Final = _event(
    "signing_keys_changed", "which key signs, or which are published, is another than before"
)
SIGNING_KEYS_FAILED: Final = _event(
    "signing_keys_failed", "the signing keys could not be read; those known stay in use"
)
SIGNING_KEYS_RECOVERED: Final = _event(
    "signing_keys_recovered", "the signing keys could be read again"
)
SIGNING_KEYS_CRASHED: Final = _event(
    "signing_keys_crashed", "following the signing keys ended in an error of our own"
)
SIGNING_KEYS_EXPOSED: Final = _event(
    "signing_keys_exposed", "others than the owner can read the file of private keys"
)
SIGNING_KEY_MADE: Final = _event(
    "signing_key_made", "the next signing key is published; it signs in so many seconds"
)
SIGNING_KEY_NOT_MADE: Final = _event(
    "signing_key_not_made", "it is time for the next signing key and it could not be made"
)
ANNOUNCEMENTS_UNREAD: Final = _event(
    "announcements_unread", "the store doesn't say whether keys were withdrawn; it is asked again"
)
VAULT_LOGGED_IN: Final = _event("vault_logged_in", "Vault gave a token to sign and read keys with")
VAULT_DOWN: Final = _event(
    "vault_down", "Vault is sealed, slow or out of reach: tokens can't be signed by it"
)
VAULT_UP: Final = _event("vault_up", "Vault answers again")

# Users' sessions
REFRESH_REUSED: Final = _event(
    "refresh_reused", "a refresh token that had been used before was presented: its session is over"
)
SESSION_UNREADABLE: Final = _event(
    "session_unreadable", "a user's sessions hold something that is none; it is cleared away"
)

# The revocation store
STORE_IN_MEMORY: Final = _event(
    "store_in_memory", "memory:// is for one process and for trying things out: nothing is kept"
)
STORE_CONNECTED: Final = _event("store_connected", "the revocation store answers, at these nodes")
STORE_UNREACHABLE: Final = _event(
    "store_unreachable", "the revocation store can't be reached; the fail mode decides"
)
STORE_GUARD_FAILED: Final = _event(
    "store_guard_failed", "watching the store's nodes ended in an error of our own; it goes on"
)
BREAKER_OPENED: Final = _event("breaker_opened", "a node failed too often: no check asks it")
BREAKER_CLOSED: Final = _event("breaker_closed", "a node answered a probe: checks ask it again")
USES_REFUSED: Final = _event(
    "uses_refused",
    "a node won't write down what is used once (a right is missing, memory full): its error",
)
USES_SETTLED: Final = _event(
    "uses_settled",
    "uses that were let through while the store was gone are written down: how many, by what was "
    "found",
)
USES_SETTLING_FAILED: Final = _event(
    "uses_settling_failed", "writing them down ended in an error of our own; it goes on"
)

# The feed of revocations
FEED_SYNCING: Final = _event("feed_syncing", "all revocations of these buckets are being read")
FEED_READING: Final = _event(
    "feed_reading", "still reading: buckets left, and revocations read since the start"
)
FEED_SYNCED: Final = _event(
    "feed_synced", "all revocations of these buckets are known: how many were read, in what time"
)
FEED_LIVE: Final = _event("feed_live", "every revocation is known here within milliseconds")
FEED_STALE: Final = _event(
    "feed_stale", "for so many buckets it can't be told what was revoked lately: the store is asked"
)
FEED_GAP: Final = _event(
    "feed_gap", "revocations were missing: pushes got lost, or a stream was cut; they are read now"
)
FEED_HISTORY_LOST: Final = _event(
    "feed_history_lost",
    "the store lost revocations that are known here: they stay in force until they expire",
)
FEED_SUBSCRIBED: Final = _event("feed_subscribed", "revocations are pushed by this node")
FEED_UNSUBSCRIBED: Final = _event(
    "feed_unsubscribed", "no revocations are pushed: another node is tried, streams are read"
)
FEED_FAILED: Final = _event(
    "feed_failed", "following the revocations ended in an error of our own; it goes on"
)

# The relay between two regions
RELAYING: Final = _event(
    "relaying", "revocations are copied from now on: from where, to where, the name of the cursor"
)
RELAY_LEVEL: Final = _event("relay_level", "the target has every revocation of the source")
RELAY_SIDE_DOWN: Final = _event(
    "relay_side_down", "one side doesn't do what it is asked: it is tried again, nothing is lost"
)
RELAY_SIDE_UP: Final = _event("relay_side_up", "that side does what it is asked again")
RELAY_STARTING_OVER: Final = _event(
    "relay_starting_over", "all revocations of this bucket are copied, and why; repeating is safe"
)
RELAY_SCANNING: Final = _event(
    "relay_scanning", "the streams of these buckets aren't whole: they are copied key by key"
)
RELAY_CURSOR_CHANGED: Final = _event(
    "relay_cursor_changed",
    "the target has another cursor than was stored: it lost data, or two relays share a name",
)
RELAY_FAILED: Final = _event(
    "relay_failed", "copying ended in an error of our own; it is tried again"
)

# Tokens that came in the clear
EXPOSED_REVOKED: Final = _event(
    "exposed_revoked", "a token came over plain HTTP and was revoked: its issuer and its digest"
)
EXPOSED_NOT_REVOKED: Final = _event(
    "exposed_not_revoked", "a token that came over plain HTTP can't be revoked; it is tried again"
)
EXPOSED_DROPPED: Final = _event(
    "exposed_dropped", "too many such tokens wait to be revoked; this one isn't"
)
EXPOSED_FAILED: Final = _event(
    "exposed_failed", "revoking such a token ended in an error of our own; it is tried again"
)
EXPOSED_ABANDONED: Final = _event(
    "exposed_abandoned", "so many such tokens were not revoked yet when authz stopped"
)

# The audit
AUDIT_DISABLED: Final = _event(
    "audit_disabled", "audit.path is null: fail-open decisions leave no record"
)
AUDIT_UNWRITABLE: Final = _event(
    "audit_unwritable", "the audit file can't be written; each record tries again"
)
AUDIT_WRITABLE: Final = _event("audit_writable", "the audit file can be written (again)")
AUDIT_OVERLOADED: Final = _event(
    "audit_overloaded", "records are refused or time out: the disk hangs or is too slow"
)
AUDIT_ABANDONED: Final = _event(
    "audit_abandoned", "the audit's writer hung at the stop; so many records were not written"
)
AUDIT_CLOSED: Final = _event(
    "audit_closed", "the audit is written; `head` is the end of its chain, for `authz audit verify`"
)

# What was let through, looked at again
RECALLED: Final = _event(
    "recalled", "the audit holds tokens that an earlier start let through and did not look at again"
)
RECALL_FAILED: Final = _event(
    "recall_failed", "the audit can't be read for what an earlier start let through"
)
RECONCILED: Final = _event(
    "reconciled", "all tokens that were let through unasked were looked at: none was revoked"
)
RECONCILED_REVOKED: Final = _event(
    "reconciled_revoked", "tokens that were let through are revoked; the audit says which"
)
RECONCILE_OVERFLOW: Final = _event(
    "reconcile_overflow", "more tokens than are remembered; see `authz audit reconcile`"
)
RECONCILE_FAILED: Final = _event(
    "reconcile_failed", "looking at what was let through ended in an error of our own; it goes on"
)
TRACE_REFUSED: Final = _event(
    "trace_refused", "the store refuses to say what became of a token: a right may be missing"
)

# The token service
TOKENS_STARTING: Final = _event("tokens_starting", "the token service begins: version and issuer")
TOKENS_SERVING: Final = _event(
    "tokens_serving", "tokens are issued from now on, on the address listed"
)
TOKENS_FAILED: Final = _event(
    "tokens_failed", "a request ended in an error of our own; its client got 500 server_error"
)
TOKENS_STORE_FAILED: Final = _event(
    "tokens_store_failed", "the store did not do what was asked of it; the client got 503"
)
LIMITS_LOCAL: Final = _event(
    "limits_local", "the counters in Redis don't answer: this process counts for itself"
)
LIMITS_SHARED: Final = _event("limits_shared", "requests are counted in Redis again")

# What operators see
ADMIN_LISTENING: Final = _event("admin_listening", "/metrics and the probes are answered here")
ADMIN_FAILED: Final = _event(
    "admin_failed", "answering /metrics or /status ended in an error of our own"
)
FOREIGN: Final = _event("foreign", "a library logged something; its words are in `message`")
