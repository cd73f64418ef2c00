"""A synthetic cohort in ACDC's layout: drawn hearts that need no download and belong to no patient.

The files are laid out, named and headed as ACDC's are, quirks included: spacing only in ``pixdim`` beside an affine of
unit scale, mixed data types, ``Info.cfg`` as the one source of the phase, a patient whose end-diastole is not frame 1,
slices without a ventricle. The drawing is anatomy in outline: left ventricle, a myocardium that thickens
as it contracts, a crescent-shaped right ventricle, five diagnoses, partial volume, coil shading, Rician noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_box.errors import UsageError
from nnunet_box.files import write_beside

RV, MYOCARDIUM, LV = 1, 2, 3
"""ACDC's label values."""

FIRST_TEST_PATIENT = 101
FIELD_OF_VIEW_MM = 120.0
SUPERSAMPLING = 3
"""Sub-voxels along each in-plane axis; their mean is the partial volume."""

CITATION = "Synthetic images drawn by nnunet_box in the layout of ACDC (Bernard et al. 2018). No patient was imaged.\n"
DTYPES = (np.int16, np.float32, np.int16, np.uint8)

# Arbitrary units of a balanced steady-state cine: blood bright, muscle dark, air darkest, fat brightest.
TISSUE = {"air": 15.0, "body": 95.0, "lung": 30.0, "liver": 120.0, "fat": 255.0, "muscle": 70.0, "blood": 205.0}


@dataclass(frozen=True)
class Anatomy:
    """One patient's heart.

    cavity, wall: radius of the left ventricle and thickness of its wall at the base in end-diastole, millimetres.
    shortening: fraction the radius loses by end-systole. rv: size of the right ventricle, 1 is normal.
    septum: direction of the right ventricle seen from the left, radians. scar: share of the wall lost in a sector.
    """

    cavity: float
    wall: float
    shortening: float
    rv: float
    septum: float
    scar: float


GROUPS: dict[str, Anatomy] = {
    "NOR": Anatomy(22.0, 9.0, 0.34, 1.0, 0.0, 0.0),
    "MINF": Anatomy(26.0, 9.0, 0.17, 1.0, 0.0, 0.35),
    "DCM": Anatomy(28.5, 8.0, 0.12, 1.1, 0.0, 0.0),
    "HCM": Anatomy(20.0, 14.0, 0.42, 0.9, 0.0, 0.0),
    "RV": Anatomy(20.5, 8.5, 0.30, 1.35, 0.0, 0.0),
}
"""ACDC's diagnoses by what they change: infarction, dilated and hypertrophic cardiomyopathy, abnormal RV."""


def write_acdc_cohort(
    folder: Path,
    patients: int = 20,
    test_patients: int = 4,
    seed: int = 0,
    size: int = 72,
    slices: tuple[int, int] = (6, 8),
) -> Path:
    """Draw a cohort into ``folder`` and return ``folder/database``, its ACDC root.

    ``database/training`` holds ``patients`` patients with labels, ``database/testing`` holds ``test_patients`` without;
    the labels of the latter lie apart, in ``folder/references``, under the names of ACDC's submission. Diagnoses
    take turns. The same arguments give the same voxels.

    Parameters
    ----------
    size: voxels along both in-plane axes, about; the field of view is about 120 mm.
    slices: fewest and most, 8 or 10 mm apart.

    Raises
    ------
    UsageError: a count or size that cannot be drawn. NnboxError: a file cannot be written.
    """
    if not 1 <= patients < FIRST_TEST_PATIENT or test_patients < 0 or size < 32 or not 3 <= slices[0] <= slices[1]:
        raise UsageError(
            f"A cohort has 1 to {FIRST_TEST_PATIENT - 1} training patients, images of at least 32 voxels and 3 slices; "
            f"asked for {patients}, {test_patients} test patients, {size} voxels, {slices} slices."
        )
    folder = Path(folder)
    database = folder / "database"
    for number in (*range(1, patients + 1), *range(FIRST_TEST_PATIENT, FIRST_TEST_PATIENT + test_patients)):
        testing = number >= FIRST_TEST_PATIENT
        part = database / ("testing" if testing else "training")
        _write_patient(part, number, seed, size, slices, folder / "references" if testing else None)
    for part in sorted(database.iterdir()):
        _write_text(part / "MANDATORY_CITATION.md", CITATION)
    return database


def _write_text(path: Path, text: str) -> None:
    with write_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_patient(
    part: Path, number: int, seed: int, size: int, slices: tuple[int, int], references: Path | None
) -> None:
    """One patient's folder: ``Info.cfg``, two frames, and their labels, beside them or in ``references``."""
    random = np.random.default_rng((seed, number))
    group = list(GROUPS)[(number - 1) % len(GROUPS)]
    name = f"patient{number:03d}"
    anatomy = _vary(GROUPS[group], random)
    spacing = (FIELD_OF_VIEW_MM / size * random.uniform(0.94, 1.06), float(random.choice([8.0, 10.0])))
    shape = (size + 2 * int(random.integers(0, 3)), size, int(random.integers(slices[0], slices[1] + 1)))
    frames = {"ED": 1, "ES": int(random.integers(8, 14))}
    if number % 10 == 9:  # as ACDC's patient090: nobody may take the first frame for end-diastole
        frames = {"ED": 4, "ES": 11}
    info = {
        **frames,
        "Group": group,
        "Height": round(random.uniform(150, 190), 1),
        "NbFrame": 30,
        "Weight": round(random.uniform(50, 110), 1),
    }
    _write_text(part / name / "Info.cfg", "".join(f"{key}: {value}\n" for key, value in info.items()))
    _write_text(part / name / "MANDATORY_CITATION.md", CITATION)
    placement = _Placement.draw(shape[2], random)
    dtype = DTYPES[number % len(DTYPES)]
    for phase, frame in frames.items():
        labels, image = _draw(anatomy, phase == "ES", shape, spacing, placement, random)
        stem = f"{name}_frame{frame:02d}"
        _write_nifti(part / name / f"{stem}.nii.gz", _as_type(image, dtype), spacing)
        label_file = part / name / f"{stem}_gt.nii.gz" if references is None else references / f"{name}_{phase}.nii.gz"
        _write_nifti(label_file, labels, spacing)


def _vary(typical: Anatomy, random: np.random.Generator) -> Anatomy:
    """A patient of the group: every measure within about a tenth of the typical one, any rotation of the heart."""
    cavity, wall, shortening, rv = random.normal(1.0, 0.06, 4)
    septum = random.normal(np.pi, 0.3)
    return Anatomy(
        typical.cavity * cavity,
        typical.wall * wall,
        typical.shortening * shortening,
        typical.rv * rv,
        septum,
        typical.scar,
    )


@dataclass(frozen=True)
class _Placement:
    """What a patient's two frames share: where the heart lies in each slice (mm), its outline's waves, the shading."""

    centre: NDArray[np.float64]
    waves: NDArray[np.float64]
    shading: NDArray[np.float64]
    papillary: float

    @classmethod
    def draw(cls, slices: int, random: np.random.Generator) -> _Placement:
        tilt = random.normal(0.0, 0.6, 2) * np.arange(slices)[:, None]
        breath_holds = random.normal(0.0, 0.7, (slices, 2))
        return cls(
            random.normal((6.0, 0.0), 3.0) + tilt + breath_holds,
            random.normal(0.0, 0.025, (3, 2)),
            random.normal(0.0, 0.16, 5),
            random.uniform(0.0, 2 * np.pi),
        )


def _draw(
    anatomy: Anatomy,
    systole: bool,
    shape: tuple[int, int, int],
    spacing: tuple[float, float],
    placement: _Placement,
    random: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Labels and image (X, Y, Z) of one frame; slice 0 is the base. ``spacing``: in plane and between slices, mm."""
    labels = np.zeros(shape, np.uint8)
    image = np.zeros(shape)
    fine = [(np.arange(n * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - n / 2 for n in shape[:2]]
    x, y = np.meshgrid(fine[0] * spacing[0], fine[1] * spacing[0], indexing="ij")
    for index in range(shape[2]):
        # The valve plane moves towards the apex in systole: the most basal slice then lies above the ventricles.
        depth = (index - (0.9 if systole else 0.0)) / (shape[2] - 0.4)
        tissue = _surroundings(x, y, random)
        structure = np.zeros(x.shape, np.uint8)
        if depth >= 0:
            centre = placement.centre[index]
            _paint_heart(tissue, structure, x - centre[0], y - centre[1], anatomy, systole, depth, placement)
        blocks = (shape[0], SUPERSAMPLING, shape[1], SUPERSAMPLING)
        image[..., index] = tissue.reshape(blocks).mean(axis=(1, 3))
        labels[..., index] = structure[SUPERSAMPLING // 2 :: SUPERSAMPLING, SUPERSAMPLING // 2 :: SUPERSAMPLING]
    return labels, _acquire(image, placement, random)


def _surroundings(x: NDArray[np.float64], y: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Chest around the heart: fat rim, lung on one side, liver below, blotchy body elsewhere."""
    tissue = np.full(x.shape, TISSUE["body"])
    blotches = ndimage.gaussian_filter(random.normal(size=x.shape), 4 * SUPERSAMPLING, mode="wrap")
    tissue += 25.0 * blotches / max(float(blotches.std()), 1e-9)
    tissue[(x - 62.0) ** 2 + (y + 10.0) ** 2 < 42.0**2] = TISSUE["lung"]
    tissue[(y - 68.0) ** 2 + (0.6 * (x + 20.0)) ** 2 < 30.0**2] = TISSUE["liver"]
    outside = (x / 68.0) ** 2 + (y / 65.0) ** 2
    tissue[outside > 0.82] = TISSUE["fat"]
    tissue[outside > 1.0] = TISSUE["air"]
    return tissue


def _paint_heart(
    tissue: NDArray[np.float64],
    structure: NDArray[np.uint8],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    anatomy: Anatomy,
    systole: bool,
    depth: float,
    placement: _Placement,
) -> None:
    """Paint one short-axis cut, in place. ``x``, ``y``: mm from the ventricle's centre; ``depth``: 0 base to 1 apex."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outline = 1.0 + sum(
        (a * np.cos((k + 2) * angle) + b * np.sin((k + 2) * angle) for k, (a, b) in enumerate(placement.waves)),
        np.zeros_like(angle),
    )
    taper = np.sqrt(max(1.0 - depth**2.2, 0.0))
    shrink = 1.0 - anatomy.shortening if systole else 1.0
    outer_diastole = anatomy.cavity + anatomy.wall
    # Muscle is hardly compressible: the ring keeps most of its area while the cavity closes.
    inner = anatomy.cavity * shrink
    outer = np.sqrt(inner**2 + 0.92 * (outer_diastole**2 - anatomy.cavity**2)) if systole else outer_diastole
    epicardium = outer * (0.35 + 0.65 * taper) * outline
    sector = np.exp(-(np.angle(np.exp(1j * (angle - anatomy.septum - 2.2))) ** 2) / 0.5)
    wall = (outer - inner) * (0.75 + 0.25 * taper) * (1.0 - anatomy.scar * sector)
    endocardium = np.maximum(epicardium - wall, 0.0)

    along = x * np.cos(anatomy.septum) + y * np.sin(anatomy.septum)
    across = -x * np.sin(anatomy.septum) + y * np.cos(anatomy.septum)
    rv_scale = anatomy.rv * (1.0 - 0.22 * systole) * max(1.0 - 1.1 * depth**1.6, 0.0)
    if rv_scale > 0.2:
        middle = outer * (0.35 + 0.65 * taper) * 0.72
        reach = ((along - middle) / (27.0 * rv_scale)) ** 2 + (across / (35.0 * rv_scale)) ** 2
        beside = radius > epicardium
        free_wall = (np.sqrt(reach) - 1.0) * 29.0 * rv_scale
        tissue[beside & (free_wall < 3.0)] = TISSUE["muscle"]
        cavity = beside & (free_wall < 0.0)
        tissue[cavity] = TISSUE["blood"]
        structure[cavity] = RV
    tissue[radius <= epicardium] = TISSUE["muscle"]
    structure[radius <= epicardium] = MYOCARDIUM
    inside = radius < endocardium
    tissue[inside] = TISSUE["blood"]
    structure[inside] = LV
    # Papillary muscles are dark but count as cavity, as ACDC's experts drew them.
    for turn in (0.0, 2.1):
        px, py = (0.62 * inner * taper * f(placement.papillary + turn) for f in (np.cos, np.sin))
        tissue[inside & ((x - px) ** 2 + (y - py) ** 2 < (0.14 * inner) ** 2)] = TISSUE["muscle"]


def _acquire(image: NDArray[np.float64], placement: _Placement, random: np.random.Generator) -> NDArray[np.float64]:
    """Point spread, receive-coil shading and Rician noise."""
    blurred = ndimage.gaussian_filter(image, (0.45, 0.45, 0.0))
    u, v, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    a = placement.shading
    shaded = blurred * np.exp(a[0] * u + a[1] * v + a[2] * u * v + a[3] * (u**2 - v**2) + 0.5 * a[4] * w)
    sigma = 9.0
    real, imaginary = random.normal(0.0, sigma, (2, *image.shape))
    noisy: NDArray[np.float64] = np.hypot(shaded + real, imaginary)
    return noisy


def _as_type(image: NDArray[np.float64], dtype: type[np.generic]) -> NDArray[np.generic]:
    """The intensities as one of the types ACDC mixes; each scanner has its own scale, and uint8 clips the brightest."""
    if dtype is np.uint8:
        return np.clip(np.rint(image * 0.8), 0, 255).astype(np.uint8)
    return np.rint(image * 1.6).astype(np.int16) if dtype is np.int16 else image.astype(np.float32)


def _write_nifti(path: Path, voxels: NDArray[np.generic], spacing: tuple[float, float]) -> None:
    """(X, Y, Z) voxels under ACDC's header: spacing in ``pixdim``, no qform, an sform of unit scale."""
    image = nibabel.Nifti1Image(voxels, None)
    image.header.set_zooms((spacing[0], spacing[0], spacing[1]))
    image.set_qform(None, code=0)
    image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=2)
    image.header["pixdim"][1:4] = (spacing[0], spacing[0], spacing[1])
    with write_beside(path) as temporary:
        nibabel.save(image, temporary)
