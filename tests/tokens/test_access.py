"""When an access token is good."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.tokens.access import Span, span

NOW = 1_800_000_000.25


def test_it_is_dated_to_the_second_it_is_issued_in() -> None:
    assert span(NOW, cut_off=0, lifetime=900) == Span(1_800_000_000, 1_800_000_900)


@pytest.mark.parametrize(
    ("cut_off", "dated"), [(-3.0, 0), (-0.25, 0), (-0.2, 1), (0.0, 1), (0.8, 2)]
)
def test_after_a_cut_off_it_is_dated_to_the_next_second_that_escapes_it(
    cut_off: float, dated: int
) -> None:
    assert span(NOW, cut_off=NOW + cut_off, lifetime=900).issued_at == 1_800_000_000 + dated


@given(
    now=st.floats(1, 2e9),
    cut_off=st.floats(0, 2e9),
    lifetime=st.floats(0, 1e9),
    left=st.none() | st.floats(0, 1e6),
)
def test_it_escapes_every_cut_off_and_is_good_for_a_second_to_a_day(
    now: float, cut_off: float, lifetime: float, left: float | None
) -> None:
    when = span(now, cut_off=cut_off, lifetime=lifetime, ends=None if left is None else now + left)
    assert when.issued_at >= cut_off
    assert 1 <= when.expires_at - when.issued_at <= 86_400
    if left is not None:
        assert when.expires_at <= max(now + left, when.issued_at + 1)
