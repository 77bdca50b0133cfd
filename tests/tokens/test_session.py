"""One session, and its form in the store."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.settings import MAX_LEEWAY
from authz.tokens.refresh import Family
from authz.tokens.session import MAX_LIVE_TOKENS, Session, SessionError

NOW = 1_800_000_000.0

moments = st.integers(0, 2**41).map(lambda milliseconds: milliseconds / 1000)
names = st.text(st.characters(exclude_categories=["Zs", "Cc", "Cs"]), min_size=1, max_size=20)

sessions = st.builds(
    Session,
    sid=names,
    subject=st.text(max_size=20),
    client_id=names,
    scopes=st.lists(names, max_size=3).map(tuple),
    audiences=st.lists(names, min_size=1, max_size=3).map(tuple),
    issued=moments,
    refreshed=moments,
    expires=moments,
    ends=moments,
    tokens=st.dictionaries(names, st.integers(0, 2**53), max_size=3),
    lifetime=st.none() | st.floats(1, 86_400),
    auth_time=st.none() | st.integers(0, 2**53),
    device=st.text(max_size=20),
    address=st.text(max_size=20),
    cnf=st.none() | st.fixed_dictionaries({"jkt": names}),
    bound=st.booleans(),
    family=st.none() | st.builds(Family, names, names, names, moments),
)


def a_session(**values: object) -> Session:
    session = Session(
        sid="S", subject="alice", client_id="web", scopes=("read",), audiences=("api",),
        issued=NOW, refreshed=NOW, expires=NOW + 1000, ends=NOW + 5000, tokens={},
        family=Family("current"),
    )  # fmt: skip
    return Session(**{**{name: getattr(session, name) for name in session.__slots__}, **values})


@given(sessions)
def test_a_session_reads_back(session: Session) -> None:
    assert Session.load(session.sid, session.dump().encode()) == session


@given(st.binary(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["sub", "client", "aud", "tokens", "refresh"]), inner),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_what_is_no_session_says_so(text: bytes) -> None:
    with pytest.raises(SessionError):
        Session.load("S", text)


@pytest.mark.parametrize("name", ["sub", "client", "aud", "tokens", "issued", "ends"])
def test_a_session_that_lacks_something_is_none(name: str) -> None:
    value = json.loads(a_session().dump())
    del value[name]
    with pytest.raises(SessionError):
        Session.load("S", json.dumps(value).encode())


def test_it_is_over_with_its_last_token_or_when_it_can_not_be_refreshed_whichever_is_later() -> (
    None
):
    refreshable = a_session(tokens={"T": int(NOW) + 60})
    assert not refreshable.is_over(NOW + 999.9)
    assert refreshable.is_over(NOW + 1000)
    assert not a_session(tokens={"T": int(NOW) + 2000}).is_over(NOW + 1999)
    plain = a_session(tokens={"T": int(NOW) + 60}, family=None)
    assert not plain.is_over(NOW + 59)
    assert plain.is_over(NOW + 60 + MAX_LEEWAY)


def test_a_token_lives_on_for_the_longest_leeway_and_its_user_is_told_of_its_end() -> None:
    """A sidecar may take it so long, so it has to be revoked with its session."""
    plain = a_session(tokens={"T": int(NOW)}, family=None)
    assert plain.living_tokens(NOW + MAX_LEEWAY - 1) == {"T": int(NOW)}
    assert not plain.is_over(NOW + MAX_LEEWAY - 1)
    assert plain.living_tokens(NOW + MAX_LEEWAY) == {}
    assert plain.info(NOW).tokens == 0
    assert plain.info(NOW).expires == NOW


def test_a_new_access_token_sweeps_out_those_that_have_expired() -> None:
    session = a_session(tokens={"old": int(NOW - MAX_LEEWAY), "young": int(NOW) + 1})
    left, surplus = session.with_token("new", int(NOW) + 900, NOW)
    assert left.tokens == {"young": int(NOW) + 1, "new": int(NOW) + 900}
    assert surplus == {}


def test_of_too_many_access_tokens_the_oldest_are_surplus() -> None:
    """They are revoked; else the session could not be ended whole."""
    session = a_session()
    for number in range(MAX_LIVE_TOKENS):
        session, surplus = session.with_token(f"T{number}", int(NOW) + 900, NOW)
        assert surplus == {}
    session, surplus = session.with_token("new", int(NOW) + 900, NOW)
    assert surplus == {"T0": int(NOW) + 900}
    assert len(session.tokens) == MAX_LIVE_TOKENS
    assert list(session.tokens)[-1] == "new"


def test_a_session_is_shown_without_its_secrets() -> None:
    session = a_session(family=Family("CURRENT", "PREVIOUS", "SALT"), tokens={"T": int(NOW) + 60})
    shown = repr(session.info(NOW))
    assert "web" in shown
    assert not any(word in shown for word in ("CURRENT", "PREVIOUS", "SALT"))
