"""Verification of an image: one that is in order passes for every profile; each thing wrong goes red for its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from saved_images import docker_layout, tar_bytes
from verify_samples import GRID, OUTPUT, TAG, OrderlyEngine, given_case, orderly_engine

from nnbox_containers.engine import ImageFacts, RunResult
from nnbox_containers.inside import look_inside
from nnbox_containers.profile import Profile
from nnbox_containers.profiles import BRATS, FLARE, FOLDER, GRAND_CHALLENGE, GRAND_CHALLENGE_INVOKE, PROFILES, VIP
from nnbox_containers.verify import Judgement, Report, Wishes, verify_image
from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.channels import write_image
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import NnboxError

ONE_START = Wishes(stop=False)


def compare(case_id: str, file: Path) -> Judgement:
    """What the command line's judge does, with the prediction known beforehand."""
    found = read_volume(file)
    problems = () if found.geometry.spacing == GRID.spacing else ("another spacing",)
    different = int(np.count_nonzero(found.array != OUTPUT))
    return Judgement(1 - different / OUTPUT.size, different, problems)


def verified(
    folder: Path,
    bundle_folder: Path,
    profile: Profile = FOLDER,
    change: Callable[[OrderlyEngine], None] = lambda engine: None,
    wishes: Wishes = ONE_START,
    cases: tuple[str, ...] = ("heart_1",),
) -> Report:
    """The report on the orderly image after ``change``."""
    bundle = load_bundle(bundle_folder)
    engine = orderly_engine(bundle_folder, bundle, profile)
    change(engine)
    facts = engine.inspect(TAG)
    inside = look_inside(engine, TAG, facts)
    given = [given_case(folder, name) for name in cases]
    return verify_image(engine, TAG, facts, inside, profile, given, compare, wishes, bundle=(bundle_folder, bundle))


def failures(report: Report) -> list[str]:
    return [check.reason for check in report.checks if not check.ok]


def facts_changed(**changes: object) -> Callable[[OrderlyEngine], None]:
    def change(engine: OrderlyEngine) -> None:
        engine.images[TAG] = replace(engine.images[TAG], **changes)

    return change


def ended(**changes: object) -> Callable[[OrderlyEngine], None]:
    def change(engine: OrderlyEngine) -> None:
        engine.result = replace(engine.result, **changes)

    return change


def left(change: Callable[[Path], None]) -> Callable[[OrderlyEngine], None]:
    def spoil(engine: OrderlyEngine) -> None:
        engine.spoil = change

    return spoil


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_an_image_in_order_passes(tmp_path, bundle_folder, profile):
    engines: list[OrderlyEngine] = []
    report = verified(tmp_path, bundle_folder, profile, engines.append, Wishes(budget=60), ("heart_1", "heart_2"))
    assert failures(report) == []
    assert [(row["case"], row["equal"], row["different"]) for row in report.cases] == [
        ("heart_1", 1.0, 0),
        ("heart_2", 1.0, 0),
    ]
    assert all(row["seconds"] == (1.5 if profile.cases == "folder" else 2.5) for row in report.cases)
    assert all(row["peak_memory_bytes"] == 50 << 20 for row in report.cases)
    (engine,) = engines
    runs = [limits for _, limits in engine.starts]
    assert len(runs) == (1 if profile.cases == "folder" else 2) + (profile.entry in ("exec", "script"))
    assert all(replace(limits, seconds=None) == profile.strictest for limits in runs)
    assert runs[0].seconds == 3600
    names = [check.name for check in report.checks]
    expected = {"user", "passwd entry", "architecture", "labels", "model", "model.sha256", "locked requirements"}
    assert expected <= set(names)
    assert {"archive: image", "archive: layers", "archive: size", "heart_2: voxels equal"} <= set(names)
    told = json.loads(json.dumps(report.as_json()))
    assert told["accepted"] is True
    assert len(told["checks"]) == len(report.checks)
    assert any("heart_2" in line and "1.000000" in line for line in report.lines())


def relabelled(**labels: str | None) -> Callable[[OrderlyEngine], None]:
    def change(engine: OrderlyEngine) -> None:
        kept = {**engine.images[TAG].labels, **labels}
        facts_changed(labels={key: value for key, value in kept.items() if value is not None})(engine)

    return change


IMAGE: dict[str, tuple[Callable[[OrderlyEngine], None], str]] = {
    "root": (facts_changed(user=""), "user: expected a number that is not root's; found none (root)"),
    "root's group": (facts_changed(user="1000:0"), "user: "),
    "a name": (facts_changed(user="nnbox"), "user: "),
    "nobody in passwd": (facts_changed(user="777:777"), "passwd entry: expected one for 777"),
    "arm": (facts_changed(architecture="arm64"), "architecture: expected amd64; found arm64"),
    "a label less": (relabelled(**{"org.nnunet-box.runtime": None}), "labels: "),
    "another profile": (relabelled(**{"org.nnunet-box.profile": "flare"}), "profile: expected folder; found flare"),
    "another lock": (relabelled(**{"org.nnunet-box.lock.sha256": "0" * 64}), "locked requirements: "),
    "another model's hash": (relabelled(**{"org.nnunet-box.model.sha256": "0" * 64}), "model.sha256: "),
    "no entry point": (facts_changed(entrypoint=()), "entry point: "),
}


@pytest.mark.parametrize("damage", IMAGE)
def test_each_fault_of_an_image_is_named(tmp_path, bundle_folder, damage):
    change, reason = IMAGE[damage]
    # What else an image of other facts cannot pass, such as its old archive, comes after.
    report = verified(tmp_path, bundle_folder, change=change, wishes=Wishes(archive=False, stop=False))
    found, *more = failures(report)
    assert found.startswith(reason)
    # A user without a number is not found in passwd by it.
    assert all(other.startswith("passwd entry") for other in more)
    assert not report.ok


def test_what_an_organiser_asks_for_beyond_that(tmp_path, bundle_folder):
    quick = Wishes(archive=False, stop=False)
    api = relabelled(**{"org.grand-challenge.api-method": "exec"})
    (found,) = failures(verified(tmp_path, bundle_folder, GRAND_CHALLENGE_INVOKE, api, quick))
    assert found.startswith("label org.grand-challenge.api-method: expected invoke; found exec")
    port = facts_changed(exposed_ports=())
    (found,) = failures(verified(tmp_path, bundle_folder, GRAND_CHALLENGE_INVOKE, port, quick))
    assert found.startswith("port: expected 4743/tcp; found none")
    plain = replace(VIP, forbidden_tags=("1.0",))
    (found,) = failures(verified(tmp_path, bundle_folder, plain, wishes=quick))
    assert found.startswith("tag: expected another version than 1.0")


def test_another_model_is_found(tmp_path, bundle_folder):
    def change(engine: OrderlyEngine) -> None:
        assert engine.bundle is not None
        member = engine.bundle.members[0]
        weights = (member.weights[0].model_copy(update={"sha256": "0" * 64}),)
        members = (member.model_copy(update={"weights": weights}),)
        engine.bundle = engine.bundle.model_copy(update={"members": members})

    report = verified(tmp_path, bundle_folder, change=change, wishes=Wishes(archive=False, stop=False))
    assert [reason.split(":")[0] for reason in failures(report)] == ["model", "model.sha256"]


def test_weights_apart_from_the_image_are_mounted(tmp_path, bundle_folder):
    """Where the organiser mounts a model; elsewhere an image without one is no submission."""
    engines: list[OrderlyEngine] = []

    def change(engine: OrderlyEngine) -> None:
        engine.bundle = None
        engines.append(engine)

    quick = Wishes(archive=False, stop=False)
    assert failures(verified(tmp_path, bundle_folder, GRAND_CHALLENGE, change, quick)) == []
    (model,) = [mount for mount in engines[0].mounted if mount.target == "/opt/ml/model"]
    assert (model.source, model.read_only) == (bundle_folder, True)
    (found,) = failures(verified(tmp_path, bundle_folder, FOLDER, change, quick))
    assert found.startswith("model: expected a bundle in the image; found none")


def one_voxel_off(count: int = 1) -> Callable[[OrderlyEngine], None]:
    def change(engine: OrderlyEngine) -> None:
        engine.labels = OUTPUT.copy()
        engine.labels.ravel()[:count] ^= 1

    return change


def another_grid(output: Path) -> None:
    write_image(output / "heart_1.nii.gz", OUTPUT, replace(GRID, spacing=(1.0, 1.0, 1.0)))


MIB = 1 << 20
RUNS: dict[str, tuple[Profile, Callable[[OrderlyEngine], None], str]] = {
    "a voxel off": (FOLDER, one_voxel_off(), "heart_1: voxels equal: expected at least 0.9999; found 0.991667 (1 vox"),
    "another grid": (FOLDER, left(another_grid), "heart_1: file: expected what the leaderboard takes; found another"),
    "an extra file": (
        FOLDER,
        left(lambda out: (out / "notes.txt").touch()),
        "heart_1: other files: expected none; fou",
    ),
    "run.json where none may be": (
        FLARE,
        left(lambda out: (out / "run.json").write_text("{}")),
        "heart_1: other files: expected none; found run.json",
    ),
    "two images in a socket": (
        GRAND_CHALLENGE,
        left(lambda out: (next(out.glob("images/*")) / "more.mha").touch()),
        "heart_1: other files: expected none; found images/",
    ),
    "no prediction": (
        FOLDER,
        left(lambda out: (out / "heart_1.nii.gz").unlink()),
        "heart_1: predictions: expected one",
    ),
    "stderr": (
        GRAND_CHALLENGE,
        ended(stderr="UserWarning: old"),
        "heart_1: stderr: expected nothing; found 'UserWarni",
    ),
    "stderr over HTTP": (GRAND_CHALLENGE_INVOKE, ended(stderr="oh"), "heart_1: stderr: "),
    "an error": (
        FOLDER,
        ended(exit_code=3, stderr="nnbox: bad case"),
        "heart_1: exit code: expected 0; found 3: nnbox: b",
    ),
    "killed for memory": (
        BRATS,
        ended(exit_code=137, killed_for_memory=True),
        "heart_1: memory: expected within 16.0 GiB",
    ),
    "killed": (BRATS, ended(exit_code=137), "heart_1: memory: "),
    "timeout": (FOLDER, ended(exit_code=137, timed_out=True), "heart_1: time: expected an end within 3600 s"),
    "too much memory": (
        GRAND_CHALLENGE,
        ended(peak_memory_bytes=9000 * MIB),
        "heart_1: memory: expected at most 8.0 GiB; found 8.79 GiB",
    ),
    "a server that does not stop": (
        GRAND_CHALLENGE_INVOKE,
        lambda engine: engine.driver.update(stop_seconds=12.0),
        "heart_1: SIGTERM: expected an end within 5 s; found 12.0 s",
    ),
}


@pytest.mark.parametrize("fault", RUNS)
def test_each_fault_of_a_run_is_named(tmp_path, bundle_folder, fault):
    profile, change, reason = RUNS[fault]
    report = verified(tmp_path, bundle_folder, profile, change, Wishes(archive=False, stop=False))
    assert failures(report)[0].startswith(reason)
    # Without an end that is well there is no prediction either, which says nothing more.
    assert all("predictions" in more for more in failures(report)[1:])


def test_stderr_is_nobodys_business_elsewhere(tmp_path, bundle_folder):
    assert verified(tmp_path, bundle_folder, FOLDER, ended(stderr="Predict: 1 of 1")).ok


def test_a_few_voxels_of_many_may_tip_over(tmp_path, bundle_folder):
    def judge(case_id: str, file: Path) -> Judgement:
        return Judgement(0.9999, 100)

    bundle = load_bundle(bundle_folder)
    engine = orderly_engine(bundle_folder, bundle, FOLDER)
    facts = engine.inspect(TAG)
    given = [given_case(tmp_path)]
    wishes = Wishes(archive=False, stop=False)
    assert verify_image(engine, TAG, facts, look_inside(engine, TAG, facts), FOLDER, given, judge, wishes).ok


@pytest.mark.parametrize(("profile", "seconds"), [(FOLDER, 1.5), (FLARE, 2.5)])
def test_a_budget_counts_the_start_where_each_case_has_one(tmp_path, bundle_folder, profile, seconds):
    for budget, fits in ((seconds, True), (seconds - 0.1, False)):
        scratch = tmp_path / str(fits)
        scratch.mkdir()
        wishes = Wishes(budget=budget, archive=False, stop=False)
        report = verified(scratch, bundle_folder, profile, wishes=wishes)
        assert report.ok is fits
        assert fits or failures(report)[0].startswith(
            f"heart_1: seconds: expected at most {budget:g} s; found {seconds}"
        )


def test_a_container_that_ignores_sigterm_is_found(tmp_path, bundle_folder):
    class Deaf(OrderlyEngine):
        pass

    def change(engine: OrderlyEngine) -> None:
        run = engine.run

        def deaf(image, command=(), mounts=(), limits=None, entrypoint=None, platform=None):
            result = run(image, command, mounts, limits, entrypoint, platform)
            if limits is not None and limits.seconds is not None and limits.seconds < 60 and engine.starts[1:]:
                return RunResult(137, "", "", timed_out=True, seconds=limits.seconds + 10)
            return result

        engine.run = deaf  # type: ignore[method-assign]

    report = verified(tmp_path, bundle_folder, change=change, wishes=Wishes(archive=False))
    (found,) = failures(report)
    assert found.startswith("SIGTERM: expected an end within 5 s; found a container that had to be killed")


def saves(**facts: str) -> Callable[[OrderlyEngine], None]:
    def change(engine: OrderlyEngine) -> None:
        engine.archive = engine.saved_files(**facts)

    return change


def two_images(engine: OrderlyEngine) -> None:
    files = engine.saved_files()
    engine.archive = {**files, "manifest.json": json.dumps(json.loads(files["manifest.json"]) * 2).encode()}


def renamed(engine: OrderlyEngine) -> None:
    files = engine.saved_files()
    manifest = json.loads(files["manifest.json"])
    engine.archive = {**files, "manifest.json": json.dumps([manifest[0] | {"RepoTags": None}]).encode()}


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (saves(user="0"), ["archive: image", "archive: user"]),
        (saves(architecture="arm64"), ["archive: image", "archive: architecture"]),
        (two_images, ["archive"]),
        (renamed, ["archive: name"]),
        (facts_changed(layers=("sha256:0", "sha256:1")), ["archive: layers"]),
    ],
)
def test_an_archive_that_is_not_the_image_is_found(tmp_path, bundle_folder, change, reasons):
    report = verified(tmp_path, bundle_folder, change=change)
    assert [reason.split(": expected")[0] for reason in failures(report)] == reasons


def test_a_cut_archive_is_found(tmp_path, bundle_folder):
    def change(engine: OrderlyEngine) -> None:
        engine.save = lambda image, archive, listen=None: archive.write_bytes(tar_bytes(docker_layout(TAG))[:2000])  # type: ignore[method-assign]

    (found,) = failures(verified(tmp_path, bundle_folder, change=change))
    assert found.startswith("archive: expected an image archive as docker save writes it; found")


def test_an_archive_too_large_for_the_organiser_is_found(tmp_path, bundle_folder):
    profile = replace(GRAND_CHALLENGE, most_bytes=1000)
    (found,) = failures(verified(tmp_path, bundle_folder, profile))
    assert found.startswith("archive: size: expected at most")


def test_a_kept_archive_is_where_it_was_asked_for(tmp_path, bundle_folder):
    file = tmp_path / "out" / "heart.tar"
    file.parent.mkdir()
    report = verified(tmp_path, bundle_folder, wishes=Wishes(save=file, stop=False))
    assert report.as_json()["archive"]["file"] == str(file)
    assert file.is_file()
    assert verified(tmp_path, bundle_folder).as_json()["archive"]["file"] is None


def test_a_disk_that_is_full_while_saving_is_one_message(tmp_path, bundle_folder):
    def change(engine: OrderlyEngine) -> None:
        def full(image, archive, listen=None):
            raise NnboxError(f"{archive}: could not be written (No space left on device).")

        engine.save = full  # type: ignore[method-assign]

    with pytest.raises(NnboxError, match="No space left"):
        verified(tmp_path, bundle_folder, change=change, wishes=Wishes(save=tmp_path / "a.tar", stop=False))
    assert not (tmp_path / "a.tar").exists()


def test_an_image_that_tells_nothing_of_itself_is_no_traceback(tmp_path):
    for said in ("", "hello\n", '{"passwd": 3}\n', '{"passwd": {}, "contract": "{", "bundle": null}\n'):
        facts = ImageFacts("sha256:1", (TAG,), 1, "", "amd64", (), {})
        engine = OrderlyEngine({TAG: facts})
        engine.run = lambda *arguments, said=said, **options: RunResult(1, said, "no python")  # type: ignore[method-assign]
        inside = look_inside(engine, TAG, facts)
        assert inside.problem
        assert inside.contract is None
