"""Which runtime predicts: what is asked for, what is installed, and nothing imported that does not run."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from front_end_samples import make_model, voxels

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.errors import UsageError
from nnunet_box.inference import choose
from nnunet_box.inference.choose import choose_runtime, network_loader
from tests.training.toys import toy_plan

# Installed here and absent in an image for a NIfTI challenge; importing one there would fail.
ABSENT = (
    "torch", "scipy", "SimpleITK", "blosc2", "edt", "pandas", "skimage", "batchgenerators", "rich", "typer", "docker",
    "PIL", "openvino_telemetry", "pip",
)  # fmt: skip
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from nnunet_box.inference import entry
code = entry.main(sys.argv[1:])
wrong = [name for name in {absent!r} if sys.modules.get(name) is not None]
sys.exit(f"imported: {{wrong}}" if wrong else code)
"""


def installed(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: object() if name in names else None)


def test_what_is_installed_decides_on_a_cpu(monkeypatch):
    monkeypatch.setattr(choose, "gpu_is_usable", lambda: False)
    installed(monkeypatch, "torch", "openvino")
    assert choose_runtime() == "openvino"
    assert choose_runtime("cpu") == "openvino"
    assert choose_runtime("cuda:1") == "torch"
    installed(monkeypatch, "torch")
    assert choose_runtime() == "torch"


def test_a_gpu_is_torchs(monkeypatch):
    monkeypatch.setattr(choose, "gpu_is_usable", lambda: True)
    installed(monkeypatch, "torch", "openvino")
    assert choose_runtime() == "torch"
    assert choose_runtime("cpu") == "openvino"


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", True),
    ],
)
def test_torchs_version_file_says_whether_it_knows_gpus(tmp_path, monkeypatch, text, built):
    (tmp_path / "version.py").write_text(text)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})()
    monkeypatch.setattr(choose, "find_spec", lambda name: spec)
    assert choose.torch_has_gpu_support() is built
    # Without a driver torch is not asked: importing it takes seconds.
    monkeypatch.setattr(choose, "GPU_DEVICES", (str(tmp_path / "absent"),))
    assert not choose.gpu_is_usable()


def test_what_cannot_be_had_is_one_message(monkeypatch):
    plan = toy_plan()
    with pytest.raises(UsageError, match="auto, torch, openvino"):
        network_loader(plan, "tensorrt")
    with pytest.raises(UsageError, match="--runtime torch for a GPU"):
        network_loader(plan, "openvino", "cuda")
    installed(monkeypatch, "torch")
    with pytest.raises(UsageError, match=r"openvino is not installed: .*nnunet_box\[openvino\]"):
        network_loader(plan, "openvino")
    installed(monkeypatch)
    with pytest.raises(UsageError, match="Neither torch nor openvino"):
        network_loader(plan)


def test_a_case_is_predicted_with_what_an_image_holds(tmp_path):
    """A whole NIfTI case, zeros and holes in it, where everything that an image lacks cannot be imported."""
    model = make_model(tmp_path / "model", folds=2)
    image = voxels(shape=(8, 24, 26))
    image[:, :5] = 0
    image[3:5, 12:14, 12:14] = 0
    write_nifti(tmp_path / "in" / "a_0000.nii.gz", image, Geometry((8, 24, 26), (2.5, 1.5, 1.25)))
    outputs = {}
    for runtime, program in (("openvino", PROGRAM.format(absent=ABSENT)), ("torch", PROGRAM.format(absent=()))):
        out = tmp_path / runtime
        options = ["--bundle", model, "--input", tmp_path / "in", "--output", out, "--runtime", runtime]
        command = [sys.executable, "-c", program, *map(str, options)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        run = json.loads((out / "run.json").read_text())
        assert run["runtime"].startswith(runtime)
        assert 0 < run["seconds"]["start"] < 600
        outputs[runtime] = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
    assert set(np.unique(outputs["torch"])) == {0, 1, 2}
    assert (outputs["openvino"] != outputs["torch"]).mean() <= 1e-4


def test_auto_does_not_import_torch_on_a_cpu():
    asked = "from nnunet_box.inference.choose import choose_runtime; name = choose_runtime('cpu')"
    code = f"import sys; {asked}; print(name, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["openvino", "False"]
