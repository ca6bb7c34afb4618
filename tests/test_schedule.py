"""How long a run is: times read, and a plan that follows the clock."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.errors import UsageError
from detkit.train import schedule
from detkit.train.schedule import Clock, parse_time


@pytest.mark.parametrize(("text", "minutes"), [("90s", 1.5), ("30m", 30), ("1h30m", 90), ("2h", 120), ("0.5h", 30)])
def test_times(text: str, minutes: float) -> None:
    assert parse_time(text) == pytest.approx(minutes)


@pytest.mark.parametrize("text", ["", "30", "m", "30 minutes", "-5m", "0m", "1m1h", "nan"])
def test_what_is_no_time_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--time"):
        parse_time(text)


@given(st.text(max_size=8))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_time(text) > 0


class Watch:
    """Stands in for the clock on the wall."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(schedule, "time", made)
    return made


def clock_of(watch: Watch, budget_s: float | None) -> Clock:
    clock = Clock(budget_s, epoch_steps=50, total_steps=500, _began=watch.now)
    clock.start(0.0)
    return clock


def test_without_a_budget_the_plan_stands(watch: Watch) -> None:
    clock = clock_of(watch, None)
    for step in range(1, 100):
        watch.now += 7
        clock.tick(step)
    assert clock.total_steps == 500
    assert clock.spent_s == pytest.approx(7 * 99)


def test_with_one_the_share_of_the_steps_is_the_share_of_the_time(watch: Watch) -> None:
    clock = clock_of(watch, 1000.0)
    for step in range(1, 21):
        watch.now += 5
        clock.tick(step)
    assert clock.total_steps == 200  # 100 s of 1000 are spent
    clock.look_took(100.0)
    watch.now += 5
    clock.tick(21)
    assert clock.total_steps == 180  # 105 s of 900: the last look takes 100


def test_a_run_ends_on_time_though_steps_grow_dearer(watch: Watch) -> None:
    clock = clock_of(watch, 1000.0)
    step = 0
    while step < clock.total_steps:
        watch.now += 1 + step / 100
        step += 1
        clock.tick(step)
    assert 990 <= watch.now - 1000 <= 1010


def test_a_resumed_run_has_spent_its_time_already(watch: Watch) -> None:
    clock = clock_of(watch, 100.0)
    clock.start(60.0)
    watch.now += 30
    clock.tick(90)
    assert clock.total_steps == 100
