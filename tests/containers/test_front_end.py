"""Which socket or ending is which channel: given, found, or asked for."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from container_samples import write_wheel

from nnbox_containers.boutiques import boutiques_descriptor
from nnbox_containers.build import image_labels, image_recipe, write_model_archive
from nnbox_containers.dockerfile import check_tag
from nnbox_containers.front_end import describe, image_contract
from nnbox_containers.profiles import FOLDER, PROFILES
from nnunet_box.bundle import Bundle, load_bundle
from nnunet_box.contract import Contract
from nnunet_box.errors import UsageError

GRAND_CHALLENGE, BRATS, VIP = PROFILES["grand-challenge"], PROFILES["brats"], PROFILES["vip"]


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


def with_channels(bundle: Bundle, *names: str) -> Bundle:
    return bundle.model_copy(update={"plan": bundle.plan.model_copy(update={"channel_names": names})})


def test_sockets_are_called_as_their_channels_unless_told(bundle: Bundle) -> None:
    pair = with_channels(bundle, "T2 (axial)", "ADC")
    contract = image_contract(GRAND_CHALLENGE, pair)
    assert contract.channels == ("t2-axial", "adc")
    assert contract.output_socket == "acdc-segmentation"
    assert describe(contract, pair.channel_names) == [
        "T2 (axial): input socket t2-axial",
        "ADC: input socket adc",
        "label map: output socket acdc-segmentation",
    ]
    assert image_contract(GRAND_CHALLENGE, pair, ["a", "b"], "c").channels == ("a", "b")
    assert image_contract(GRAND_CHALLENGE, pair, ["adc=b"]).channels == ("t2-axial", "b")
    assert image_contract(GRAND_CHALLENGE, pair, [], "c").output_socket == "c"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "b", "c"], "one for each of T2, ADC"),
        (["T1=a"], "one for each of T2, ADC"),
        (["T2=a", "t2=b"], "one for each of T2, ADC"),
        (["a/b"], "no slug"),
        (["../x"], "no slug"),
        (["a", "a"], "a for two channels"),
        (["T2=adc"], "adc for two channels"),
    ],
)
def test_sockets_that_cannot_be(bundle: Bundle, given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"--input-socket.*{message}"):
        image_contract(GRAND_CHALLENGE, with_channels(bundle, "T2", "ADC"), given)


def test_endings_of_brats_are_known_by_the_names_of_sequences(bundle: Bundle) -> None:
    decathlon = with_channels(bundle, "FLAIR", "T1w", "t1gd", "T2w")
    assert image_contract(BRATS, decathlon).channels == ("t2f", "t1n", "t1c", "t2w")
    with pytest.raises(UsageError, match=r"--channel MRI=SLUG.*\(t1n, t1c, t2w, t2f\)"):
        image_contract(BRATS, with_channels(bundle, "MRI"))
    assert image_contract(BRATS, with_channels(bundle, "MRI"), channels=["MRI=t1n"]).channels == ("t1n",)


def test_options_of_another_layout_are_refused(bundle: Bundle) -> None:
    for profile, options, word in (
        (FOLDER, {"input_sockets": ["a"]}, "--input-socket: profile folder"),
        (BRATS, {"output_socket": "a"}, "--output-socket: profile brats"),
        (VIP, {"channels": ["a"]}, "--channel: profile vip"),
    ):
        with pytest.raises(UsageError, match=word):
            image_contract(profile, bundle, **options)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_image_is_told_what_its_profile_says(profile, bundle_folder, bundle, tmp_path):
    named = with_channels(bundle, "T2")
    wheels = [write_wheel(tmp_path, name, "1.0", {}) for name in ("alpha", "pip", "nnunet_box")]
    recipe = image_recipe(bundle_folder, named, profile, [], wheels, tag="a:1", base_image="b")
    files = {file.name: file for file in recipe.context.files}
    contract = Contract.model_validate_json(files["nnbox/profile.json"].source)
    assert (contract.profile, contract.challenge) == (profile.name, "acdc")
    for field in ("layout", "entry", "input", "output", "model", "port", "threads", "record", "silent_stderr"):
        assert getattr(contract, field) == getattr(profile, field), field
    assert len(contract.channels) == (1 if profile.layout in ("sockets", "case-folders") else 0)
    assert files["start/nnbox-predict"].executable
    assert ("predict.sh" in files) == (profile.entry == "script")


def test_weights_apart_from_the_image(bundle_folder, bundle, tmp_path):
    wheels = [write_wheel(tmp_path, name, "1.0", {}) for name in ("pip", "nnunet_box")]
    options = {"tag": "a:1", "base_image": "b", "weights_apart": True}
    recipe = image_recipe(bundle_folder, bundle, GRAND_CHALLENGE, [], wheels, **options)
    assert not [name for name in recipe.context.names() if name.startswith("bundle/")]
    assert "COPY bundle/" not in recipe.dockerfile
    with pytest.raises(UsageError, match="folder mounts no model"):
        image_recipe(bundle_folder, bundle, FOLDER, [], wheels, **options)
    for name in ("one", "two"):
        write_model_archive(tmp_path / f"{name}.tar.gz", bundle_folder, bundle)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as archive:
        for member in filter(tarfile.TarInfo.isfile, archive.getmembers()):
            target = tmp_path / "model" / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
    assert load_bundle(tmp_path / "model", check_weights=True) == bundle


def test_created_is_now_or_what_the_environment_says(bundle, monkeypatch):
    label = "org.opencontainers.image.created"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    labels = image_labels(bundle, FOLDER, "base:1", "sha256:0")
    assert labels[label] == "2023-11-14T22:13:20Z"
    assert labels["org.opencontainers.image.base.name"] == "base:1"
    assert labels["org.opencontainers.image.base.digest"] == "sha256:0"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH=yesterday"):
        image_labels(bundle, FOLDER, "base:1", None)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert image_labels(bundle, FOLDER, "base:1", None)[label] > "2026-01-01"


def test_versions_an_organiser_does_not_take():
    for tag in ("mine", "mine:latest"):
        with pytest.raises(UsageError, match="takes no version 'latest'; say one, such as mine:v1"):
            check_tag(tag, VIP.forbidden_tags)
    assert check_tag("mine:v1.0.0", VIP.forbidden_tags) == "mine:v1.0.0"


def test_the_descriptor_makes_the_command_line_that_the_image_takes():
    told = json.loads(boutiques_descriptor("mine:v1.0.0", "nnU-Net for ms", "0.1", ("FLAIR", "T1 (Gd)", "output")))
    assert told["command-line"] == "nnbox-predict [FLAIR] [T1_GD] [CHANNEL_2] [OUTPUT]"
    assert told["container-image"] == {"type": "docker", "image": "mine:v1.0.0"}
    keys = [entry["value-key"] for entry in told["inputs"]]
    assert keys == ["[FLAIR]", "[T1_GD]", "[CHANNEL_2]", "[OUTPUT]"]
    assert {entry["command-line-flag"] for entry in told["inputs"]} == {"--input", "--output"}
    assert [entry["path-template"] for entry in told["output-files"]] == ["[OUTPUT]"]
