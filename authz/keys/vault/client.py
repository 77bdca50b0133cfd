"""Asks Vault, in threads of its own, with a token that is kept good.

hvac speaks for us; it blocks, so each request is a thread's. Whoever asks waits `vault.timeout` at
most. Where Vault as a whole doesn't answer, one request after another finds that out and all others
are told at once, so that a token service with a Vault that hangs goes on answering.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import hvac
import requests
import structlog
from hvac import exceptions
from requests.adapters import HTTPAdapter

from authz.keys.vault.errors import State, VaultError, in_words
from authz.keys.vault.login import Lease, lease_of_renewal, login_of
from authz.observe import events
from authz.settings.signing import VaultSettings

MAX_AT_ONCE = 16
"""Requests at a time, each a thread. Vault nearby signs in one or two milliseconds, half of which
is this process' own work, so more would only wait for one another."""

RENEW_AT = 0.4
"""Of a token's time: renewed before half of it is over, so two more tries fit into the rest."""

RENEWED_ENOUGH = 0.5
"""Of its first time, at least, must a renewed token have: else its end is near, and another is got.
"""

LOG_IN_AGAIN = 5.0
"""Seconds that a token must have been in use before a refusal is put down to it: what a policy
refuses, another token would be refused, too."""

READ_EVERY = 10.0
"""Seconds between readings of keys; so a key made with Vault's own tools is published long before
it signs."""

SOONEST = 0.2
"""Seconds: the least between two readings."""

REST = 1.0
"""Seconds between requests to a Vault that doesn't answer."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Vault:
    """One Vault, and who we are to it."""

    def __init__(self, settings: VaultSettings) -> None:
        self.where = settings.address
        self.timeout = settings.timeout
        self._settings = settings
        self._login = login_of(settings)
        self._session = _session(settings)
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="vault")
        self._client = self._new_client()
        self._lease: Lease | None = None
        self._first_seconds = 0.0
        """For how long the token was good when it was got; 0: without end."""
        self._leased_at = 0.0
        self._renew_at = 0.0
        self._token_lock = threading.Lock()
        self._resting: VaultError | None = None
        self._rest_until = 0.0

    @property
    def read_every(self) -> float:
        """Seconds between readings of keys, each of which also tends the token."""
        if not self._first_seconds:
            return READ_EVERY
        return max(SOONEST, min(READ_EVERY, self._first_seconds / 5))

    async def call(self, path: str, ask: Callable[[hvac.Client], T]) -> T:
        """The answer of a request, made in a thread by `ask`. `path`: what is asked, for messages.

        VaultError: it was refused, or there is none within `vault.timeout`.
        """
        now = time.monotonic()
        if self._resting is not None:
            if now < self._rest_until:
                raise VaultError(self._resting.state, str(self._resting))
            self._rest_until = now + self.timeout  # one at a time finds out whether it is over
        try:
            async with asyncio.timeout(self.timeout):
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._pool, self._ask, path, ask)
        except VaultError as error:
            self._note(error)
            raise
        except (exceptions.VaultError, requests.RequestException, OSError, ValueError) as error:
            told = in_words(error, path, timeout=self.timeout)
            self._note(told)
            raise told from None
        self._note(None)
        return answer

    async def tend(self) -> None:
        """Have the token renewed, or another one got, where it is time. VaultError as `call`."""
        if self._lease is not None and self._lease.seconds and time.monotonic() >= self._renew_at:
            await self.call("auth/token/renew-self", self._renew)

    async def aclose(self) -> None:
        """Let go of all connections. Nobody asks any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    # ---- in threads

    def _ask(self, path: str, ask: Callable[[hvac.Client], T]) -> T:
        lease = self._leased(None)
        for again in (True, True, False):  # once for either cause
            try:
                return ask(self._client)
            except exceptions.Forbidden:
                # The token has expired, was revoked, or is of a Vault that was restarted; or the
                # policy says no, and then another token gets the same answer.
                fresh = self._leased(lease)
                if not again or fresh.token == lease.token:
                    raise
                lease = fresh
            except requests.exceptions.ConnectionError as error:
                # A connection that was kept, and that the other side has closed meanwhile.
                if not again or isinstance(error, requests.exceptions.Timeout):
                    raise
        raise VaultError(State.DENIED, f"permission denied on {path}")

    def _leased(self, refused: Lease | None) -> Lease:
        """The token in use, or another one where there is none or it is `refused`."""
        with self._one_at_a_time():
            used_for = time.monotonic() - self._leased_at
            may_be_over = used_for >= min(LOG_IN_AGAIN, self._first_seconds or LOG_IN_AGAIN)
            if self._lease is None or (self._lease is refused and may_be_over):
                self._log_in()
            if self._lease is None:
                raise VaultError(State.DENIED, f"no token from {self._login.path}")
            return self._lease

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Of those who find that there is no token one gets it. They don't queue up behind a Vault
        that hangs.
        """
        if not self._token_lock.acquire(timeout=self.timeout):
            raise TimeoutError
        try:
            yield
        finally:
            self._token_lock.release()

    def _log_in(self) -> None:
        try:
            lease = self._login.log_in(self._new_client())
        except exceptions.InvalidRequest:  # AppRole: invalid role or secret id
            raise VaultError(State.DENIED, f"{self._login.path} refuses the log-in") from None
        except (exceptions.VaultError, requests.RequestException, ValueError) as error:
            raise in_words(error, self._login.path, timeout=self.timeout) from None
        self._first_seconds, self._leased_at = lease.seconds, time.monotonic()
        self._use(lease)
        log.info(events.VAULT_LOGGED_IN, where=self.where, path=self._login.path)

    def _renew(self, client: hvac.Client) -> None:
        """Of several threads one does it."""
        with self._one_at_a_time():
            lease = self._lease
            if lease is None or time.monotonic() < self._renew_at:
                return
            if lease.renewable:
                try:
                    renewed = lease_of_renewal(lease.token, client.auth.token.renew_self())
                except (exceptions.Forbidden, exceptions.InvalidRequest):
                    renewed = lease._replace(seconds=0.0)
                if renewed.seconds >= self._first_seconds * RENEWED_ENOUGH:
                    self._use(renewed)
                    return
            self._log_in()

    def _use(self, lease: Lease) -> None:
        self._lease = lease
        self._renew_at = time.monotonic() + lease.seconds * RENEW_AT
        self._client.token = lease.token

    def _new_client(self) -> hvac.Client:
        return hvac.Client(
            self._settings.address,
            token="",  # or it would look for one in VAULT_TOKEN and in the home folder
            namespace=self._settings.namespace,
            session=self._session,
            verify=self._session.verify,
            timeout=self.timeout,
            allow_redirects=False,  # the token would go along to wherever that leads
        )

    # ---- state

    def _note(self, error: VaultError | None) -> None:
        """Of what concerns Vault as a whole, each change is logged once."""
        state = error.state if error is not None and error.state.passes else None
        before = None if self._resting is None else self._resting.state
        if error is not None and state is not None:
            self._resting, self._rest_until = error, time.monotonic() + REST
            if state is not before:
                log.warning(events.VAULT_DOWN, where=self.where, state=state.value[0])
        elif self._resting is not None:
            self._resting = None
            log.info(events.VAULT_UP, where=self.where)


def _session(settings: VaultSettings) -> requests.Session:
    session = requests.Session()
    # What the environment says of proxies, .netrc and certificates is not for the keys' way.
    session.trust_env = False
    session.verify = True if settings.ca_file is None else str(settings.ca_file)
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=MAX_AT_ONCE, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def data_of(answer: Any, path: str) -> dict[str, Any]:
    """The `data` of an answer. VaultError: it is none of Vault's, say of a proxy that redirects."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise VaultError(
            State.REFUSED, f"{path}: the answer is not Vault's; is vault.address right?"
        )
    return data
