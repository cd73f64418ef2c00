"""A fingerprint file is read whole or refused, with the value at fault in the message."""

import json
from pathlib import Path
from typing import Any

import pytest

from nnunet_box.errors import InvalidData
from nnunet_box.files import write_json
from nnunet_box.planning.fingerprint import Fingerprint, load_fingerprint

# As the command line's contract prints it.
CONTRACT: dict[str, Any] = {
    "spacings": [[3.6, 0.625, 0.625]],
    "sizes": [[20, 320, 320]],
    "cases": 32,
    "modalities": ["T2", "ADC"],
    "foreground_classes": 2,
    "size_after_crop_ratio": 1.0,
}
INTENSITIES: dict[str, float] = {
    "mean": 99.5,
    "sd": 37.0,
    "percentile_00_5": -15.0,
    "percentile_99_5": 197.0,
    "median": 101.0,
    "minimum": -983.0,
    "maximum": 5420.0,
}


def written(tmp_path: Path, value: object) -> Path:
    file = tmp_path / "fingerprint.json"
    file.write_text(json.dumps(value))
    return file


def test_the_contracts_example_is_read(tmp_path: Path) -> None:
    fingerprint = load_fingerprint(written(tmp_path, CONTRACT))
    assert fingerprint.spacings == ((3.6, 0.625, 0.625),)
    assert fingerprint.sizes == ((20, 320, 320),)
    assert fingerprint.cases == 32
    assert fingerprint.modalities == ("T2", "ADC")
    assert fingerprint.intensities is None


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    fingerprint = Fingerprint.model_validate(CONTRACT | {"intensities": [INTENSITIES, INTENSITIES]})
    write_json(tmp_path / "fingerprint.json", fingerprint.model_dump(mode="json", exclude_none=True))
    assert load_fingerprint(tmp_path / "fingerprint.json") == fingerprint
    assert json.loads((tmp_path / "fingerprint.json").read_text())["schema_version"] == 1


@pytest.mark.parametrize("name", CONTRACT)
def test_each_value_is_needed(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, {key: value for key, value in CONTRACT.items() if key != name})
    with pytest.raises(InvalidData, match=name) as refusal:
        load_fingerprint(file)
    assert refusal.value.file == file
    assert refusal.value.exit_code == 3
    assert '"spacings": [[3.6, 0.625, 0.625]]' in refusal.value.fix


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ({"spacings": []}, "spacings"),
        ({"spacings": [[3.6, 0.0, 0.625]]}, "spacings.0.1"),
        ({"spacings": [[3.6, -1.0, 0.625]]}, "spacings.0.1"),
        ({"spacings": [[3.6, 0.6, float("nan")]]}, "spacings.0.2"),
        ({"spacings": [[3.6, 0.6, float("inf")]]}, "spacings.0.2"),
        ({"spacings": [[3.6, 0.6]]}, "spacings.0"),
        ({"spacings": [[3.6, 0.6, 0.6]] * 2}, "2 entries for 32 cases"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [[20, 0, 320]]}, "sizes.0.1"),
        ({"sizes": [[20, 320.5, 320]]}, "sizes.0.1"),
        ({"sizes": [[20, 320, 320]] * 31}, "31 entries for 32 cases"),
        ({"cases": 0}, "cases"),
        ({"modalities": []}, "modalities"),
        ({"foreground_classes": 0}, "foreground_classes"),
        ({"size_after_crop_ratio": 0}, "size_after_crop_ratio"),
        ({"size_after_crop_ratio": 1.2}, "size_after_crop_ratio"),
        ({"schema_version": 2}, "schema_version"),
        ({"intensities": [INTENSITIES]}, "1 entries for 2 modalities"),
        ({"intensities": [INTENSITIES, INTENSITIES | {"sd": -1}]}, "intensities.1.sd"),
        ({"intensities": [INTENSITIES, INTENSITIES | {"median": 300}]}, "must not fall"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], at_fault: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as refusal:
        load_fingerprint(written(tmp_path, CONTRACT | change))
    assert at_fault in refusal.value.found


def test_a_rounding_error_between_quantiles_is_no_fault() -> None:
    values = INTENSITIES | {"percentile_99_5": 5420.0000000000009, "maximum": 5420.0}
    assert Fingerprint.model_validate(CONTRACT | {"intensities": [values, values]}).intensities is not None


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"spacings"'])
def test_something_else_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "fingerprint.json"
    file.write_text(text)
    with pytest.raises(InvalidData, match=r"fingerprint\.json"):
        load_fingerprint(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such file"):
        load_fingerprint(tmp_path / "fingerprint.json")
