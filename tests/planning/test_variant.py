"""Named departures from the paper."""

from __future__ import annotations

import pytest

from nnunet_box.errors import UsageError
from nnunet_box.planning.variant import PAPER, VARIANTS, Recipe, model_name, recipe, split_model_name, variant_names


def test_nothing_asked_for_is_the_paper() -> None:
    assert recipe(()) == PAPER == Recipe("instance", "leaky-relu", "ce+dice", "paper", True, False, "adam-plateau")
    assert variant_names(None) == variant_names("") == ()
    assert model_name("2d") == "2d"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_what_it_says(name: str) -> None:
    assert recipe([name]) != PAPER
    assert split_model_name(model_name("3d_fullres", [name])) == ("3d_fullres", (name,))


def test_the_later_recipe_has_one_name_whatever_the_order() -> None:
    names = variant_names("more-augmentation, sgd-poly,deep-supervision,sgd-poly")
    assert names == ("deep-supervision", "sgd-poly", "more-augmentation")
    model = model_name("3d_fullres", names)
    assert model == "3d_fullres__deep-supervision__sgd-poly__more-augmentation"
    assert split_model_name(model) == ("3d_fullres", names)
    assert recipe(names) == Recipe(deep_supervision=True, optimiser="sgd-poly", augmentation="more")


@pytest.mark.parametrize("text", ["batch-norm,no-norm", "ce-only,dice-only", "no-augmentation,more-augmentation"])
def test_contradictions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        variant_names(text)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="batch-norm, no-norm, relu"):
        variant_names("batchnorm")
