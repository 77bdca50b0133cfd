"""How soon a worker that died is started again."""

from authz.workers.backoff import LONGEST_WAIT, WELL_AFTER, Backoff


def test_the_first_restart_comes_at_once_and_then_the_wait_doubles_up_to_a_bound() -> None:
    backoff = Backoff()
    waits = [backoff.wait(0.1) for _ in range(12)]
    assert waits[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_WAIT
    assert waits == sorted(waits)


def test_who_lived_well_for_a_while_is_forgiven() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.wait(0.1)
    assert backoff.wait(WELL_AFTER) == 0.0
    assert backoff.wait(0.1) == 0.5
    assert backoff.wait(WELL_AFTER - 1) == 1.0


def test_a_worker_that_dies_for_days_has_a_wait_still() -> None:
    """No overflow of the power."""
    backoff = Backoff()
    for _ in range(5000):
        assert backoff.wait(0.0) <= LONGEST_WAIT
