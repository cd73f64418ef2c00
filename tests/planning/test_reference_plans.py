"""The planner's answers beside those of the authors' code of April 2019: every field, nothing more or less."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_box.planning.fingerprint import Fingerprint, load_fingerprint
from nnunet_box.planning.planner import plan_configurations

FEW = Path(__file__).parent / "reference_plans.json"
FEW_ENTRIES: dict[str, Any] = json.loads(FEW.read_text())


def answer(fingerprint: Fingerprint) -> dict[str, Any]:
    planned = plan_configurations(fingerprint)
    return {name: configuration.model_dump(mode="json", exclude_none=True) for name, configuration in planned.items()}


@pytest.mark.parametrize("name", FEW_ENTRIES)
def test_equals_the_reference(name: str, tmp_path: Path) -> None:
    file = tmp_path / "fingerprint.json"
    file.write_text(json.dumps(FEW_ENTRIES[name]["fingerprint"]))
    assert answer(load_fingerprint(file)) == FEW_ENTRIES[name]["configurations"]


@pytest.mark.real_data
def test_equals_every_reference_of_the_real_data(real_data: Path) -> None:
    file = real_data / "reference_plans.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    entries = json.loads(file.read_text())
    assert len(entries) >= 11
    differing = [
        name
        for name, entry in entries.items()
        if answer(Fingerprint.model_validate(entry["fingerprint"])) != entry["configurations"]
    ]
    assert differing == []


def test_one_entry_stands_for_all_cases() -> None:
    short = Fingerprint.model_validate(FEW_ENTRIES["heart_like"]["fingerprint"])
    spelled_out = short.model_copy(
        update={"spacings": short.spacings * short.cases, "sizes": short.sizes * short.cases}
    )
    assert plan_configurations(spelled_out) == plan_configurations(short)
