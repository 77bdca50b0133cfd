"""The plain integers that a check counts in."""

import math

from hypothesis import given
from hypothesis import strategies as st

from authz.check.verdict import Decision, Reason, allow_anonymous, deny
from authz.observe.counters import CHECK_BUCKETS, CheckCounters, Histogram, StoreCounters


@given(st.lists(st.floats(min_value=0, max_value=10, allow_nan=False)))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float]) -> None:
    """As Prometheus defines it: `le` is inclusive, counts are cumulative, the last is `+Inf`."""
    histogram = Histogram(CHECK_BUCKETS)
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative() == [
        (bound, sum(value <= bound for value in values)) for bound in (*CHECK_BUCKETS, math.inf)
    ]
    assert histogram.total == sum(values)


def test_checks_are_counted_by_decision_and_reason() -> None:
    counters = CheckCounters()
    for verdict in (deny(Reason.TOKEN_REVOKED), allow_anonymous(), deny(Reason.TOKEN_REVOKED)):
        counters.count(verdict, 0.001)
    assert counters.verdicts() == {
        (Decision.DENY, Reason.TOKEN_REVOKED): 2,
        (Decision.ALLOW, Reason.ANONYMOUS): 1,
    }
    assert counters.duration.cumulative()[-1] == (math.inf, 3)


def test_look_ups_that_shared_a_round_trip_are_counted_each() -> None:
    counters = StoreCounters()
    counters.observe(0.002, 50)
    counters.observe(0.002, 1)
    assert counters.lookups == 51
    assert counters.latency.cumulative()[-1] == (math.inf, 2)
