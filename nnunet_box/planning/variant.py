"""Named departures from the paper's recipe: its own ablations (Figure 2) and what was published later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from nnunet_box.errors import UsageError

SEPARATOR = "__"


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained; the defaults are the paper's.

    norm: ``instance``, ``batch`` or ``none``. activation: ``leaky-relu`` or ``relu``. loss: ``ce+dice``, ``ce`` or
    ``dice``.
    augmentation: ``paper``, ``none`` or ``more``. mirroring: flips while training, and therefore at test time too.
    deep_supervision: a loss at every resolution of the decoder. optimiser: ``adam-plateau`` or ``sgd-poly``.
    """

    norm: str = "instance"
    activation: str = "leaky-relu"
    loss: str = "ce+dice"
    augmentation: str = "paper"
    mirroring: bool = True
    deep_supervision: bool = False
    optimiser: str = "adam-plateau"


PAPER = Recipe()
VARIANTS: dict[str, dict[str, Any]] = {
    "batch-norm": {"norm": "batch"},
    "no-norm": {"norm": "none"},
    "relu": {"activation": "relu"},
    "no-augmentation": {"augmentation": "none", "mirroring": False},
    "ce-only": {"loss": "ce"},
    "dice-only": {"loss": "dice"},
    "no-mirroring": {"mirroring": False},
    "deep-supervision": {"deep_supervision": True},
    "sgd-poly": {"optimiser": "sgd-poly"},
    "more-augmentation": {"augmentation": "more"},
}
"""The first six are the paper's Figure 2. Deep supervision, SGD with a polynomial rate and more augmentation are the
recipe of Isensee et al., Nature Methods 2021. Leaving out mirroring is for structures that flips confuse."""


def recipe(variants: Iterable[str]) -> Recipe:
    """The paper's recipe with the named departures.

    Raises
    ------
    UsageError: an unknown name, or two that contradict each other.
    """
    chosen = PAPER
    changed: dict[str, str] = {}
    for name in variants:
        if name not in VARIANTS:
            raise UsageError(f"--variant {name}: there are {', '.join(VARIANTS)}.")
        for key, value in VARIANTS[name].items():
            if key in changed and getattr(chosen, key) != value:
                raise UsageError(f"--variant {name} and {changed[key]} exclude each other; leave one out.")
            changed[key] = name
            chosen = replace(chosen, **{key: value})
    return chosen


def variant_names(text: str | None) -> tuple[str, ...]:
    """``sgd-poly,deep-supervision`` to its names, once each, in the order of ``VARIANTS``.

    Raises
    ------
    UsageError: an unknown name, or two that contradict each other.
    """
    given = [part.strip() for part in (text or "").split(",") if part.strip()]
    recipe(given)
    return tuple(name for name in VARIANTS if name in given)


def model_name(configuration: str, variants: Iterable[str] = ()) -> str:
    """``3d_fullres``, or with variants ``3d_fullres__deep-supervision__sgd-poly``: the name of a folder of folds."""
    return SEPARATOR.join((configuration, *variants))


def split_model_name(name: str) -> tuple[str, tuple[str, ...]]:
    """A model's name to its configuration and variants.

    Raises
    ------
    UsageError: an unknown variant, or two that contradict each other.
    """
    configuration, *variants = name.split(SEPARATOR)
    return configuration, variant_names(",".join(variants))
