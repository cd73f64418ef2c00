"""A small model, images, and the profiles that images of it hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from nnunet_box.bundle import write_bundle
from nnunet_box.contract import Contract
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.metaimage import grid_as_fields
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.files import write_json
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Plan
from nnunet_box.training.checkpoint import save_weights
from tests.training.toys import VOLUME, toy_plan

SHAPE = (6, 20, 22)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Geometry(SHAPE, (2.0, 0.1 + 0.2, 1 / 3), (-12.3456789012345, 4.0, 1e-7), OBLIQUE)


def plan_of(channels: tuple[str, ...]) -> Plan:
    return toy_plan().model_copy(update={"channel_names": channels, "normalisation": ("zscore",) * len(channels)})


def make_model(folder: Path, channels: tuple[str, ...] = ("MR",), folds: int = 1) -> Path:
    """A bundle of networks with random weights, the same each time; they give all three labels."""
    torch.manual_seed(4)
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = folder.with_name(f"{folder.name}.safetensors")
    save_weights(weights, UNet(VOLUME, len(channels), 3))
    write_bundle(
        folder,
        dataset="toy",
        challenge=None,
        plan=plan_of(channels),
        weights={"3d_fullres": dict.fromkeys(range(folds), weights)},
        postprocessing=Postprocessing(),
    )
    weights.unlink()
    return folder


def voxels(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32) + 0.1


def write_mha(file: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **fields: str) -> Path:
    """An uncompressed float image on an oblique grid."""
    grid = grid_as_fields(Geometry(shape, GRID.spacing, GRID.origin, GRID.direction))
    header = {"ObjectType": "Image", "NDims": "3", **grid, "ElementType": "MET_FLOAT", "ElementDataFile": "LOCAL"}
    lines = "".join(f"{key} = {value}\n" for key, value in (header | fields).items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(lines.encode() + voxels(seed, shape).astype("<f4").tobytes())
    return file


def write_image(file: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Path:
    write_nifti(file, voxels(seed, shape), Geometry(shape, (1.0, 1.0, 1.0), (3.0, 4.0, 5.0)))
    return file


def write_inputs(folder: Path, *slugs: str, key: str = "socket", **places: str) -> None:
    """``inputs.json`` as the platform writes it, with a value that is no image among the sockets."""
    sockets = [{"slug": slug, "relative_path": places.get(slug.replace("-", "_"), f"images/{slug}")} for slug in slugs]
    sockets.append({"slug": "age-in-months", "relative_path": "age-in-months.json"})
    write_json(folder / "inputs.json", [{key: socket, "image": None, "value": None} for socket in sockets])


def write_contract(folder: Path, model: Path, **facts: object) -> Path:
    """``profile.json`` of an image whose folders are ``folder``'s ``in`` and ``out``."""
    told = {"profile": "test", "challenge": None, "layout": "folder", "entry": "exec"}
    told |= {"input": str(folder / "in"), "output": str(folder / "out"), "bundle": str(model)}
    write_json(folder / "profile.json", Contract(**{**told, **facts}).model_dump())
    return folder / "profile.json"


def predict(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The program of an image, as a process."""
    command = [sys.executable, "-m", "nnunet_box.inference.entry", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def record_of(output: Path) -> dict:
    return json.loads((output / "run.json").read_text())
