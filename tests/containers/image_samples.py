"""Images of a small model with random weights, one for each profile, and what is put before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import torch

from nnbox_containers.build import ImageRecipe
from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import ImageFacts, Mount, RunLimits, RunResult
from nnbox_containers.profile import Profile
from nnbox_containers.staging import GivenCase
from nnunet_box.bundle import write_bundle
from nnunet_box.contract import Contract
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.network.unet import UNet
from nnunet_box.training.checkpoint import save_weights
from tests.training.toys import VOLUME, toy_plan

SHAPE = (6, 15, 14)
GRID = Geometry(SHAPE, (2.0, 1.5, 1.25), (3.0, -4.5, 5.25))
CHANNEL = "T2"
SOCKET, LABELS = "t2-mri", "organ-labels"


@dataclass(frozen=True)
class ProfileImage:
    """A built image with everything known of it. model: the bundle inside, as a folder here."""

    engine: DockerEngine
    tag: str
    profile: Profile
    contract: Contract
    facts: ImageFacts
    model: Path

    def run(
        self, source: Path | None, output: Path | None, limits: RunLimits | None = None, arguments: Sequence[str] = ()
    ) -> RunResult:
        """One start as the organiser does it, of a profile whose input and output are two folders."""
        mounts = [Mount(source, self.profile.input, read_only=True)] if source is not None else []
        mounts += [Mount(output, self.profile.output)] if output is not None else []
        return self.engine.run(self.tag, arguments, mounts, limits or self.profile.strictest)


def small_model(folder: Path) -> Path:
    """A bundle for acdc, of one channel, with a random network that gives all three labels."""
    weights = folder.with_name("fold.safetensors")
    torch.manual_seed(4)
    save_weights(weights, UNet(VOLUME, 1, 3))
    plan = toy_plan().model_copy(update={"channel_names": (CHANNEL,)})
    folds = {"3d_fullres": {0: weights}}
    write_bundle(folder, dataset="toy", challenge="acdc", plan=plan, weights=folds, postprocessing=Postprocessing())
    return folder


def voxels(seed: int) -> np.ndarray:
    """A bright block in noise, so that a network of whatever weights tells two kinds of voxels apart."""
    image = np.random.default_rng(seed).normal(0, 0.1, SHAPE)
    image[2:5, 4 : 10 + seed, 3:9] += 3
    return image.astype(np.float32)


def put_image(path: Path, seed: int) -> Path:
    """An image in the format that the path's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".mha"):
        from nnunet_box.dataset.metaimage import grid_as_fields

        header = {"ObjectType": "Image", "NDims": "3", **grid_as_fields(GRID), "ElementType": "MET_FLOAT"}
        lines = "".join(f"{key} = {value}\n" for key, value in {**header, "ElementDataFile": "LOCAL"}.items())
        path.write_bytes(lines.encode() + voxels(seed).astype("<f4").tobytes())
    else:
        save_nifti(path, voxels(seed), GRID)
    return path


def given_case(name: str, seed: int) -> GivenCase:
    return GivenCase(name, 1, lambda channel, path: put_image(path, seed), f"{name}.nii.gz")


def open_folder(path: Path) -> Path:
    """A folder that any user of a container may write."""
    path.mkdir(parents=True)
    path.chmod(0o777)
    return path


def readable(folder: Path) -> Path:
    """Let any user of a container read what is below."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def plain_folder(folder: Path, *names: str) -> Path:
    """A plain folder of cases."""
    for seed, name in enumerate(names):
        put_image(folder / f"{name}_0000.nii.gz", seed)
    return readable(folder)


def socket_folder(folder: Path, name: str = "case") -> Path:
    """One case as grand-challenge.org mounts it."""
    put_image(folder / "images" / SOCKET / f"{name}.mha", 0)
    (folder / "inputs.json").write_text(f'[{{"socket": {{"slug": "{SOCKET}", "relative_path": "images/{SOCKET}"}}}}]')
    return readable(folder)


def label_map(file: Path) -> np.ndarray:
    """Voxels (Z, Y, X) of a prediction."""
    if file.name.endswith(".mha"):
        from nnunet_box.dataset.volumes import read_volume

        return read_volume(file).array
    return np.asanyarray(nibabel.load(file).dataobj).transpose(2, 1, 0)


def own_stage(recipe: ImageRecipe, stage: str) -> ImageRecipe:
    """The first stage under a name of this run's own: it is deleted afterwards; a build beside it keeps its stages."""
    label = '"org.nnunet-box.stage"='
    dockerfile = recipe.dockerfile.replace(f'{label}"environment"', f'{label}"{stage}"')
    assert dockerfile != recipe.dockerfile
    others = [file for file in recipe.context.files if file.name != "Dockerfile"]
    context = BuildContext((ContextFile("Dockerfile", dockerfile.encode()), *others))
    return replace(recipe, dockerfile=dockerfile, context=context)


def remove_stages(stage: str) -> None:
    """Delete what the first stage of these tests' builds left, so that tests do not fill a disk; others' stays."""
    import docker

    client = docker.from_env()
    try:
        for image in client.images.list(filters={"dangling": True, "label": f"org.nnunet-box.stage={stage}"}):
            client.images.remove(image.id)
    finally:
        client.close()
