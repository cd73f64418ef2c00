"""Loss values that can be computed by hand; when the rate falls and when training ends."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_box.errors import UsageError
from nnunet_box.training.budget import batch_size_for, batches_an_epoch, parse_duration
from nnunet_box.training.loss import segmentation_loss, soft_dice
from nnunet_box.training.schedule import BudgetSchedule, PlateauSchedule


def test_perfect_prediction_is_minus_one() -> None:
    labels = torch.tensor([[[0, 1], [2, 1]]])
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 100.0
    assert segmentation_loss(logits, labels, batch_dice=False).item() == pytest.approx(-1, abs=1e-5)


def test_uniform_prediction_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [1, 1]]])
    loss = segmentation_loss(torch.zeros(1, 2, 2, 2), labels, batch_dice=False).item()
    # Foreground: overlap 3 * 0.5, masses 4 * 0.5 and 3.
    assert loss == pytest.approx(math.log(2) - 2 * 1.5 / (2 + 3), abs=1e-4)


def test_batch_dice_pools_and_sample_dice_averages() -> None:
    labels = torch.zeros(2, 1, 4, dtype=torch.int64)
    labels[0, 0, :] = 1
    labels[1, 0, 0] = 1
    guess = torch.zeros(2, 2, 1, 4)
    guess[0, 1] = 1
    guess[1, 0] = 1
    samples = soft_dice(guess, labels, batch_dice=False).item()
    pooled = soft_dice(guess, labels, batch_dice=True).item()
    assert samples == pytest.approx(0.5, abs=1e-4)
    assert pooled == pytest.approx(2 * 4 / (4 + 5), abs=1e-4)


def test_background_is_left_out_of_dice() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    labels[0, 0, 0] = 1
    guess = torch.zeros(1, 2, 2, 2)
    guess[:, 0] = 1
    assert soft_dice(guess, labels, batch_dice=False).item() < 1e-4


def test_rate_falls_by_a_fifth_after_thirty_epochs_without_improvement() -> None:
    schedule = PlateauSchedule()
    schedule.end_epoch(1.0)
    for _ in range(30):
        schedule.end_epoch(1.0)
    assert schedule.rate == 3e-4
    schedule.end_epoch(1.0)
    assert schedule.rate == pytest.approx(6e-5)


def test_improvement_of_the_average_starts_the_count_again() -> None:
    schedule = PlateauSchedule()
    for epoch in range(200):
        schedule.end_epoch(1.0 - 0.01 * epoch)
    assert schedule.rate == 3e-4
    # One better epoch moves the average by 7 % of itself: too little to count.
    flat = PlateauSchedule()
    for epoch in range(32):
        flat.end_epoch(0.99 if epoch == 10 else 1.0)
    assert flat.rate == pytest.approx(6e-5)


def test_training_ends_below_a_millionth_or_at_the_last_epoch() -> None:
    schedule = PlateauSchedule()
    epochs = 0
    while not schedule.finished:
        schedule.end_epoch(0.5)
        epochs += 1
    assert schedule.rate == pytest.approx(4.8e-7)
    assert epochs == 1 + 4 * 31
    endless = PlateauSchedule(most_epochs=1000)
    epochs = 0
    while not endless.finished:
        endless.end_epoch(-0.01 * epochs)
        epochs += 1
    assert epochs == 1000


def test_budget_warms_up_peaks_and_ends_at_nothing() -> None:
    schedule = BudgetSchedule(seconds=1000.0, peak=1e-3)
    rates = []
    for spent in range(0, 1000, 10):
        schedule.spent = float(spent)
        rates.append(schedule.rate)
    peak = rates.index(max(rates))
    assert 0 < peak < 10 and max(rates) < 1e-3
    assert rates[0] < 1e-4
    assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
    schedule.spent = 1000.0
    assert schedule.finished and schedule.rate < 1e-6


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("25m", 1500), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "25", "m", "-5m", "5 m", "5mm", "0m"])
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="25m"):
        parse_duration(text)


def test_batch_fits_the_budget_between_two_and_the_plan() -> None:
    assert batch_size_for(1500, 1.0, planned=7) == 2
    assert batch_size_for(25_000, 2.0, planned=7) == 5
    assert batch_size_for(10**6, 0.1, planned=7) == 7
    assert batches_an_epoch(1500, 2.0, planned=250) == 15
    assert batches_an_epoch(10**6, 2.0, planned=250) == 250
    assert batches_an_epoch(1, 60.0, planned=250) == 1


def test_a_loss_that_always_falls_is_trained_on_for_a_thousand_epochs() -> None:
    schedule = PlateauSchedule()
    while not schedule.finished:
        schedule.end_epoch(-float(schedule.epochs_done))
    assert schedule.epochs_done == 1000 and schedule.rate == 3e-4
