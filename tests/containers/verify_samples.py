"""An image that is in order, as an engine in memory has it, so that one thing at a time can be made wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from saved_images import Files, config, docker_layout, layer, sha, tar_bytes

from nnbox_containers.build import bundle_files, files_sha256
from nnbox_containers.checks import OWN
from nnbox_containers.engine import DEFAULT_LIMITS, ImageFacts, Mount, RunLimits, RunResult
from nnbox_containers.fake_engine import FakeEngine
from nnbox_containers.front_end import image_contract
from nnbox_containers.inside import PROGRAM
from nnbox_containers.profile import Profile
from nnbox_containers.staging import COMMAND_FILE, DRIVER_MARK, GivenCase
from nnunet_box.bundle import Bundle
from nnunet_box.contract import Contract
from nnunet_box.dataset.channels import write_image
from nnunet_box.dataset.geometry import Geometry

TAG = "nnbox-heart:1.0"
LOCK = sha(b"lock")
PYTHON = "/opt/nnbox/venv/bin/python"
GRID = Geometry((4, 6, 5), (2.0, 1.0, 1.0))
OUTPUT = np.arange(120, dtype=np.uint8).reshape(4, 6, 5) % 4


def good_labels(folder: Path, bundle: Bundle, profile: Profile) -> dict[str, str]:
    prefix = "org.opencontainers.image."
    own = {
        "runtime": "cpu",
        "challenge": str(bundle.challenge),
        "profile": profile.name,
        "dataset": bundle.dataset,
        "model.sha256": files_sha256(bundle_files(folder, bundle)),
        "lock.sha256": LOCK,
    }
    oci = {"title": "t", "version": "1", "created": "2026-01-01T00:00:00Z", "base.name": "b"}
    return {f"{OWN}{name}": value for name, value in own.items()} | {
        **{f"{prefix}{name}": value for name, value in oci.items()},
        **profile.labels,
    }


@dataclass
class OrderlyEngine(FakeEngine):
    """Holds one image, which predicts ``labels`` for every case. result: how its runs end. spoil: what a run does to
    its output at last. archive: what it saves, in place of the image itself.
    """

    bundle: Bundle | None = None
    contract: Contract | None = None
    lock: str | None = LOCK
    passwd: dict[str, str] = field(default_factory=lambda: {"0": "/root", "1000": "/tmp"})
    labels: np.ndarray = field(default_factory=lambda: OUTPUT)
    result: RunResult = field(default_factory=lambda: RunResult(0, "", "", seconds=2.5, peak_memory_bytes=50 << 20))
    driver: dict[str, object] = field(
        default_factory=lambda: {"invoke": 201, "start_seconds": 1.0, "invoke_seconds": 1.0, "stop_seconds": 0.2}
    )
    spoil: Callable[[Path], None] = lambda output: None
    archive: Files | None = None
    starts: list[tuple[tuple[str, ...], RunLimits]] = field(default_factory=list)
    mounted: list[Mount] = field(default_factory=list)

    def run(
        self,
        image: str,
        command: Sequence[str] = (),
        mounts: Sequence[Mount] = (),
        limits: RunLimits = DEFAULT_LIMITS,
        entrypoint: Sequence[str] | None = None,
        platform: str | None = None,
    ) -> RunResult:
        if PROGRAM in command:
            told = {
                "passwd": self.passwd,
                "contract": self.contract.model_dump_json() if self.contract else None,
                "bundle": self.bundle.model_dump_json() if self.bundle else None,
                "lock": self.lock,
            }
            return RunResult(0, json.dumps(told) + "\n", "")
        self.starts.append((tuple(command), limits))
        self.mounted += mounts
        output = next(mount.source for mount in mounts if not mount.read_only)
        source = mounts[0].source
        stdout = self.result.stdout
        assert self.contract is not None
        if self.result.exit_code == 0:
            stdout += self._predict(source, output)
        if self.contract.entry == "http":
            stdout += f"{DRIVER_MARK}{json.dumps(self.driver)}\n"
        self.spoil(output)
        return replace(self.result, stdout=stdout)

    def _predict(self, source: Path, output: Path) -> str:
        contract = self.contract
        assert contract is not None
        if contract.layout == "sockets":
            (sent,) = (source / "images" / contract.channels[0]).iterdir()
            files = {sent.name.removesuffix(".mha"): f"images/{contract.output_socket}/{sent.name}"}
            listed = json.loads((source / "inputs.json").read_text())
            assert [entry["socket"]["slug"] for entry in listed] == list(contract.channels)
        elif contract.layout == "case-folders":
            files = {folder.name: f"{folder.name}.nii.gz" for folder in source.iterdir()}
            for name in files:
                assert (source / name / f"{name}-{contract.channels[0]}.nii.gz").is_file()
        elif contract.layout == "files":
            words = (output / COMMAND_FILE).read_text().split()
            name = Path(words[words.index("--output") + 1]).name
            assert (output / Path(words[words.index("--input") + 1]).name).is_file()
            files = {name.removesuffix(".nii.gz"): name}
        else:
            names = [path.name for path in source.iterdir()]
            files = {name[:-12]: f"{name[:-12]}.nii.gz" for name in names}
        for name in files.values():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            write_image(output / name, self.labels, GRID)
        records = [{"case": case, "file": name, "seconds": {"predict": 1.5}} for case, name in files.items()]
        told = json.dumps({"cases": records})
        if contract.record:
            (output / "run.json").write_text(told)
            return ""
        return f"{told}\n"

    def save(self, image: str, archive: Path, listen: object = None) -> None:
        archive.write_bytes(tar_bytes(self.archive if self.archive is not None else self.saved_files()))

    def saved_files(self, **facts: str) -> Files:
        kept = self.images[TAG]
        options = {"user": kept.user, "architecture": kept.architecture, "labels": dict(kept.labels)} | facts
        return docker_layout(TAG, **options)


def orderly_engine(folder: Path, bundle: Bundle, profile: Profile) -> OrderlyEngine:
    """The engine with an image of ``bundle`` (in ``folder``) that has nothing wrong with it."""
    labels = good_labels(folder, bundle, profile)
    settings = config([layer("x")] * 2, user=profile.user, labels=labels)
    facts = ImageFacts(
        f"sha256:{sha(settings)}",
        (TAG,),
        1000,
        profile.user,
        "amd64",
        (PYTHON, "-m", "entry"),
        labels,
        exposed_ports=(f"{profile.port}/tcp",) if profile.port else (),
        layers=(f"sha256:{sha(layer('x'))}",) * 2,
    )
    channels = ("t2f",) if profile.layout == "case-folders" else ()
    contract = image_contract(profile, bundle, channels=channels)
    return OrderlyEngine({TAG: facts}, bundle=bundle, contract=contract)


def given_case(folder: Path, name: str = "heart_1") -> GivenCase:
    """A case of one channel whose image is random."""
    source = folder / f"{name}.source.nii.gz"
    image = np.random.default_rng(0).integers(1, 100, GRID.shape).astype(np.int16)
    write_image(source, image, GRID)

    def put(index: int, path: Path) -> None:
        if path.name.endswith(".nii.gz"):
            shutil.copyfile(source, path)
        else:
            write_image(path, image, GRID)

    return GivenCase(name, 1, put, f"{name}.nii.gz")
