from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from argumbel import schedules
from argumbel.schedules import (
    Constant,
    Exponential,
    HalfCosine,
    Linear,
    QuarterCosine,
    Schedule,
    from_state_dict,
    parse,
)

positive = st.floats(1e-6, 1e3)
steps = st.integers(1, 10**7)
ANY = st.one_of(
    st.builds(Constant, positive),
    st.builds(Exponential, positive, st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000)),
    st.builds(Linear, positive, positive, steps),
    st.builds(HalfCosine, positive, positive, steps),
    st.builds(QuarterCosine, positive, positive, steps),
)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Constant(0.7), 10**9, 0.7),
        (Exponential(1.0, 3e-5, 0.5, every=1000), 999, 1.0),  # Jang et al. 2017, as in their code
        (Exponential(1.0, 3e-5, 0.5, every=1000), 1999, math.exp(-0.03)),
        (Exponential(1.0, 3e-5, 0.5, every=1000), 23_000, math.exp(-0.69)),
        (Exponential(1.0, 3e-5, 0.5, every=1000), 24_000, 0.5),
        (Exponential.from_factor(2.0, 0.999995, floor=0.5), 1000, 2.0 * 0.999995**1000),  # wav2vec 2.0
        (Exponential.from_factor(2.0, 0.999995, floor=0.5), 277_258, 0.5000009),
        (Exponential.from_factor(2.0, 0.999995, floor=0.5), 277_260, 0.5),
        (Linear(10.0, 0.1, 240), 60, 7.525),  # GDAS
        (Linear(10.0, 0.1, 240), 241, 0.1),
        (HalfCosine(0.9, 1e-6, 1000), 500, 0.4500005),  # taming transformers
        (HalfCosine(1.0, 0.2, 1000), 250, 0.2 + 0.4 * (1 + math.sqrt(0.5))),
        (HalfCosine(0.9, 1e-6, 1000), 5000, 1e-6),
        (QuarterCosine(1.0, 1 / 16, 150_000), 50_000, 1 / 16 + 15 / 16 * math.cos(math.pi / 6)),  # DALL-E
        (QuarterCosine(1.0, 1 / 16, 150_000), 150_000, 1 / 16),
    ],
)
def test_value(schedule: Schedule, step: int, expected: float) -> None:
    assert schedule(step) == pytest.approx(expected, rel=1e-6)


@given(ANY)
def test_begins_at_start_and_moves_one_way(schedule: Schedule) -> None:
    start = schedule.start  # type: ignore[attr-defined]
    floor = getattr(schedule, "floor", 0.0)
    assert schedule(0) == pytest.approx(max(start, floor))
    horizon = getattr(schedule, "steps", 20_000)
    values = [schedule(n * horizon // 16) for n in range(20)]
    rises, slack = values[-1] > values[0], 1e-9 * max(values)
    assert all((b >= a - slack) if rises else (b <= a + slack) for a, b in pairwise(values))
    if hasattr(schedule, "end"):
        assert schedule(horizon) == schedule(horizon + 1) == schedule.end


@given(st.builds(Exponential, positive, st.floats(0, 1), st.floats(0, 1), st.integers(2, 1000)), st.integers(0, 10**6))
def test_exponential_holds_its_value_between_refreshes(schedule: Exponential, step: int) -> None:
    begin = step - step % schedule.every
    assert schedule(step) == schedule(begin) == schedule(begin + schedule.every - 1)
    assert schedule(begin) == max(schedule.floor, schedule.start * math.exp(-schedule.rate * begin))


@given(ANY)
def test_text_and_dictionary_are_ways_back(schedule: Schedule) -> None:
    assert from_state_dict(schedule.state_dict()) == schedule
    schedule.load_state_dict(schedule.state_dict())
    assert parse(str(schedule)) == schedule


def test_state_survives_a_checkpoint_file(tmp_path) -> None:
    schedule = parse("exp:1,1e-4,0.5,500")
    torch.save({"schedule": schedule.state_dict()}, tmp_path / "c.pt")
    assert from_state_dict(torch.load(tmp_path / "c.pt", weights_only=True)["schedule"]) == schedule


def test_loading_another_schedule_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"describe this schedule, constant:1, but it describes linear:1,0.5,10.*from_state_dict"
    ):
        Constant(1.0).load_state_dict(Linear(1.0, 0.5, 10).state_dict())


def test_serves_a_torch_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Linear(1.0, 0.0, 4))
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5, 0.0]


def test_step_may_be_any_integer() -> None:
    schedule = Linear(1.0, 0.0, 10)
    assert schedule(5) == schedule(np.int64(5)) == schedule(torch.tensor(5)) == 0.5


@pytest.mark.parametrize(("step", "kind"), [(-1, ValueError), (0.5, TypeError), ("3", TypeError)])
def test_bad_step(step: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="step must be"):
        Constant(1.0)(step)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(math.nan), "start of Constant must be finite"),
        (lambda: Constant(-1.0), "start of Constant must be finite and at least 0, but it is -1.0"),
        (lambda: Exponential(1.0, math.inf), "rate of Exponential"),
        (
            lambda: Exponential(1.0, 0.1, 0.0, every=0),
            "every of Exponential must be a whole number, at least 1, but it is 0",
        ),
        (lambda: Exponential.from_factor(1.0, 1.5), "factor must be above 0 and at most 1, but it is 1.5"),
        (lambda: Linear(1.0, 0.0, steps=0), "steps of Linear"),
        (lambda: Linear(1.0, 0.0, steps=2.5), "steps of Linear"),  # type: ignore[arg-type]
        (lambda: parse("expo:1"), "schedule must be one of constant:start; exp:.* but it is 'expo:1'"),
        (lambda: parse(""), "schedule must be one of"),
        (lambda: parse("exp:1"), "schedule must be exp:start,rate,floor,every, but 'exp:1' has only 1 numbers"),
        (lambda: parse("constant"), "has only 0 numbers"),
        (lambda: parse("constant:1,2"), "schedule must be constant:start, but 'constant:1,2' has 2 numbers"),
        (lambda: parse("exp:1,fast"), "rate of schedule exp must be a number, but it is 'fast'"),
        (lambda: parse("exp:1,,0.5"), "rate of schedule exp must be a number, but it is ''"),
        (lambda: parse("linear:1,0,10.5"), "steps of Linear must be a whole number"),
        (lambda: parse("constant:nan"), "start of Constant must be finite"),
        (lambda: from_state_dict({"start": 1.0}), "state must have a kind"),
        (
            lambda: from_state_dict({"kind": "constant", "begin": 1.0}),
            "have the parameters \\['start'\\], but it has \\['begin'\\]",
        ),
    ],
)
def test_bad_parameters(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="start of Constant must be a number, but it is a str"):
        Constant("1")  # type: ignore[arg-type]


def test_every_kind_is_exported() -> None:
    kinds = {
        c for c in vars(schedules).values() if isinstance(c, type) and issubclass(c, Schedule) and c is not Schedule
    }
    assert {c.__name__ for c in kinds} < set(schedules.__all__)
