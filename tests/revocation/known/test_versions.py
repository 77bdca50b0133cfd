"""Counters that say whether anything was learnt of a token or a user."""

from authz.revocation.known.versions import SLOTS, Versions, slot_of

NAMES = [f"name-{number}" for number in range(1000)]


def test_what_is_learnt_of_a_name_changes_its_counter_and_few_others() -> None:
    versions = Versions()
    before = list(versions.counters)
    versions.touch("name-1")
    changed = [slot for slot in range(SLOTS) if versions.counters[slot] != before[slot]]
    assert changed == [slot_of("name-1")]


def test_names_are_spread_over_the_counters() -> None:
    """A thousand share 30 at random; with 100 shared, something would be wrong."""
    assert len({slot_of(name) for name in NAMES}) > 900


def test_every_lesson_counts() -> None:
    versions = Versions()
    seen = set()
    for _ in range(100):
        versions.touch("name-1")
        seen.add(versions.counters[slot_of("name-1")])
    assert len(seen) == 100


def test_what_concerns_everybody_changes_all_counters() -> None:
    versions = Versions()
    versions.touch("name-1")
    before = list(versions.counters)
    versions.touch_all()
    assert all(now != then for now, then in zip(versions.counters, before, strict=True))


def test_a_counter_that_is_full_begins_anew() -> None:
    versions = Versions()
    versions.counters[slot_of("name-1")] = 2**32 - 1
    versions.touch("name-1")
    assert versions.counters[slot_of("name-1")] == 0
    versions.counters[slot_of("name-1")] = 2**32 - 1
    versions.touch_all()
    assert versions.counters[slot_of("name-1")] == 0
