"""A small bundle, small wheels, and a stand-in for the program inside an image."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nnunet_box.bundle import Bundle, load_bundle, write_bundle
from nnunet_box.evaluation.postprocessing import Postprocessing, PostprocessingDecision
from nnunet_box.evaluation.selection import Candidate, Selection
from nnunet_box.files import write_json
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.planner import make_plan
from nnunet_box.temporary import TEMPORARY_MARK
from nnunet_box.workspace import Workspace

LABELS = {0: "background", 1: "RV", 2: "MLV", 3: "LVC"}

# What answers as `python -m nnunet_box.inference.entry` in an image without torch: it tells how it was started and what
# the image's profile says, and writes one file where the real one would.
PROBE_ENTRY = """
import json, os, pathlib, sys

def refused(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
        return False
    except OSError:
        return True

if __name__ == "__main__":
    told = json.loads(pathlib.Path("/opt/nnbox/profile.json").read_text())
    bundle = json.loads(pathlib.Path(told["bundle"], "bundle.json").read_text())
    facts = {
        "told": told, "arguments": sys.argv[1:], "challenge": bundle["challenge"],
        "uid": os.getuid(), "gid": os.getgid(),
        "home": os.path.expanduser("~"), "unbuffered": os.environ["PYTHONUNBUFFERED"],
        "threads": {name: int(value) for name, value in os.environ.items() if "THREAD" in name},
        "root_refused": refused("/"), "bundle_refused": refused(told["bundle"]), "tmp_refused": refused("/tmp"),
        "input_refused": refused(told["input"]), "network": sorted(os.listdir("/sys/class/net")),
        "shm": os.statvfs("/dev/shm").f_frsize * os.statvfs("/dev/shm").f_blocks,
        "status": pathlib.Path("/proc/self/status").read_text(),
        "modes": {str(p): oct(p.stat().st_mode & 0o777) for p in pathlib.Path(told["bundle"]).rglob("*")},
        "inputs": sorted(os.listdir(told["input"])),
    }
    pathlib.Path(told["output"], "probe.json").write_text(json.dumps(facts))
    print("probe done")
"""


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A pure wheel with these files; pip wants RECORD, and takes it without hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in {**files, **metadata}.items():
            # A fixed time: equal files make equal wheels, and the engine's layer cache hits.
            archive.writestr(zipfile.ZipInfo(inside), text)
        archive.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in [*files, *metadata, f"{info}/RECORD"]))
    return path


def small_plan(dataset: str) -> Plan:
    """The plan of ten small cases with ACDC's labels."""
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),),
        sizes=((20, 20, 20),),
        cases=10,
        modalities=("MRI",),
        foreground_classes=3,
        size_after_crop_ratio=1.0,
    )
    return make_plan(fingerprint, dataset, LABELS)


def make_selected_model(workspace: Path, dataset: str) -> None:
    """A data set of one case without voxels, its plan, two trained folds, a selection with postprocessing."""
    paths = Workspace(workspace, dataset)
    raw = workspace / "datasets" / dataset
    for folder, name in (("imagesTr", "a_0000.nii.gz"), ("labelsTr", "a.nii.gz")):
        (raw / folder).mkdir(parents=True)
        (raw / folder / name).touch()
    names = {name: value for value, name in LABELS.items()}
    write_json(raw / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": names, "file_ending": ".nii.gz"})
    # Here, as most tests need no network.
    from nnunet_box.network.unet import UNet
    from nnunet_box.training.checkpoint import save_weights

    plan = small_plan(dataset)
    write_json(paths.plan, plan.model_dump(mode="json", exclude_none=True))
    for fold in (0, 1):
        paths.fold("2d", fold).mkdir(parents=True)
        network = UNet(plan.configurations["2d"], plan.inputs_of("2d"), len(plan.labels))
        save_weights(paths.fold("2d", fold) / "weights.safetensors", network)
    candidate = Candidate(configurations=("2d",), dice={1: 0.7, 2: 0.8, 3: 0.9}, mean_foreground_dice=0.8)
    decision = PostprocessingDecision(cases=1, trials=(), postprocessing=Postprocessing(steps=((3,),)))
    selection = Selection(
        dataset=dataset,
        labels=LABELS,
        folds=(0, 1),
        cases=1,
        candidates=(candidate,),
        chosen=("2d",),
        postprocessing_decision=decision,
    )
    write_json(paths.selection, selection.model_dump(mode="json"))


def make_bundle(folder: Path, challenge: str | None = "acdc", dataset: str = "acdc") -> Bundle:
    """A bundle with random bytes for weights: nothing here looks into them."""
    source = folder.parent / f"{folder.name}-weights"
    source.mkdir(parents=True)
    weights = {fold: source / f"{fold}.safetensors" for fold in (0, 1)}
    for fold, path in weights.items():
        path.write_bytes(bytes([fold]) * (3 << 20))
    write_bundle(
        folder,
        dataset=dataset,
        challenge=challenge,
        plan=small_plan(dataset),
        weights={"2d": weights},
        postprocessing=Postprocessing(steps=((2,),)),
    )
    return load_bundle(folder)


def pip_wheel(folder: Path) -> Path:
    """The installed pip as a wheel: a build installs with it, and tests fetch nothing."""
    import pip

    source = Path(pip.__file__).parent
    path = folder / f"pip-{pip.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.writestr(zipfile.ZipInfo(f"pip/{file.relative_to(source)}"), file.read_bytes())
    return path


def probe_wheel(folder: Path, entry: str = PROBE_ENTRY) -> Path:
    """The stand-in for nnunet_box, with ``entry`` for its inference.entry module."""
    files = {
        "nnunet_box/__init__.py": "",
        "nnunet_box/inference/__init__.py": "",
        "nnunet_box/inference/entry.py": entry,
        "nnunet_box/inference/jobs.py": "",
        "nnunet_box/inference/torch_runtime.py": "",
        "nnunet_box/inference/openvino_runtime.py": "def device_name(): return 'stand-in'\n",
        "nnunet_box-0.0.1.dist-info/entry_points.txt": "[nnunet_box.challenges]\nacdc = nnunet_box:__name__\n",
    }
    return write_wheel(folder, "nnunet_box", "0.0.1", files)


def no_temporaries(folder: Path) -> bool:
    """Whether nothing under a temporary name is left below ``folder``."""
    return not list(folder.rglob(f"{TEMPORARY_MARK}*"))
