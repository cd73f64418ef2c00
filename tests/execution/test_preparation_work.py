"""What preparation costs, counted: files opened, cases prepared, waits for the disk, bytes held, processes, modules."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import weakref
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nnunet_box.dataset import volumes
from nnunet_box.dataset.cases import ChannelFile, SourceCase, read_image
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.execution import prepare
from nnunet_box.execution.prepare import plan_dataset, preprocess_configurations
from nnunet_box.files import fill_beside
from nnunet_box.parallel import map_cases
from nnunet_box.preprocessing import fingerprint
from nnunet_box.preprocessing.fingerprint import CaseFacts, extract_fingerprint
from nnunet_box.preprocessing.intensities import ValueHistogram
from nnunet_box.preprocessing.pipeline import prepare_case
from nnunet_box.temporary import TEMPORARY_MARK
from nnunet_box.workspace import Workspace
from tests.execution.cascade_samples import write_cases

CASES = 4
STORED = ("image.b2nd", "labels.b2nd", "locations.safetensors")


@pytest.fixture
def small(tmp_path: Path) -> tuple[Workspace, Dataset]:
    """Cases of one spacing, so that 2d and 3d_fullres want the same voxels of them."""
    dataset = write_cases(tmp_path / "small", CASES)
    return Workspace(tmp_path / "ws", dataset.name), dataset


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that are opened."""
    names: list[str] = []
    load = volumes.nibabel.load

    def count(path: Path) -> object:
        names.append(Path(path).name)
        return load(path)

    monkeypatch.setattr(volumes.nibabel, "load", count)
    return names


def files_of(dataset: Dataset) -> list[str]:
    return sorted(file.name for case in dataset.cases for file in (case.reference_file, case.label) if file)


def test_each_file_is_opened_once_for_the_fingerprint_and_once_for_all_configurations(
    small: tuple[Workspace, Dataset], opened: list[str]
) -> None:
    workspace, dataset = small
    plan = plan_dataset(workspace, dataset, processes=1)
    assert sorted(opened) == files_of(dataset)
    opened.clear()
    stores = preprocess_configurations(workspace, dataset, plan, list(plan.configurations), processes=1)
    assert len(stores) == 2
    assert sorted(opened) == files_of(dataset)


def test_a_case_is_prepared_once_for_configurations_of_one_grid(
    small: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = small
    plan = plan_dataset(workspace, dataset, processes=1)
    prepared: list[float] = []

    def count(image, spacing, labels, plan, configuration):
        prepared.append(configuration.spacing[1])
        return prepare_case(image, spacing, labels, plan, configuration)

    monkeypatch.setattr(prepare, "prepare_case", count)
    preprocess_configurations(workspace, dataset, plan, ["2d", "3d_fullres"], processes=1)
    assert len(prepared) == CASES
    wider = plan.configurations["2d"].model_copy(update={"spacing": (1.0, 2.0, 2.0)})
    other = plan.model_copy(update={"configurations": {**plan.configurations, "2d": wider}})
    prepared.clear()
    stores = preprocess_configurations(workspace, dataset, other, ["2d"], processes=1)
    assert prepared == [2.0] * CASES, "another grid is prepared of its own"
    prepared.clear()
    both = Workspace(workspace.root / "both", dataset.name)
    stores = preprocess_configurations(both, dataset, other, ["2d", "3d_fullres"], processes=1)
    assert sorted(prepared) == [1.0] * CASES + [2.0] * CASES
    assert [store.name for store in stores] == ["2d", "3d_fullres"]


def test_a_case_is_on_the_disk_before_it_has_its_name_and_folders_are_synced_once(
    small: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = small
    plan = plan_dataset(workspace, dataset, processes=1)
    synced: list[int] = []
    placed: dict[str, set[int]] = {}
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def note_rename(self: Path, target: Path) -> Path:
        placed[target.name] = {file.stat().st_ino for file in self.iterdir()} - {*synced}
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    (store,) = preprocess_configurations(workspace, dataset, plan, ["3d_fullres"], processes=1)
    assert placed == {case.id: set() for case in dataset.cases}, "every file of a case before its name"
    assert synced.count(store.stat().st_ino) == 3, "after its key, after the cases, after stage.json"
    assert len(synced) == len(STORED) * CASES + 5, "and those two files"


def _one_fails(number: int, folder: Path) -> str:
    if number == 2:
        raise InvalidData("case_2", "a volume", "noise", "Restore it.")
    (folder / str(number)).write_text("whole")
    (folder / "unfinished").write_text("half")
    return str(number)


def test_an_error_leaves_what_was_finished_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="case_2"), fill_beside(tmp_path) as (folder, put):
        for number in range(4):
            put(_one_fails(number, folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_disk_that_fails_late_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NnboxError, match="one: could not be written"), fill_beside(tmp_path) as (folder, put):
        (folder / "one").write_text("x")
        put("one")
    assert not list(tmp_path.iterdir())


def test_entries_are_hidden_until_they_are_put(tmp_path: Path) -> None:
    with fill_beside(tmp_path / "store") as (folder, put):
        (folder / "a").mkdir()
        (folder / "a" / "file").write_text("x")
        assert [path.name.startswith(TEMPORARY_MARK) for path in (tmp_path / "store").iterdir()] == [True]
        put("a")
    assert (tmp_path / "store" / "a" / "file").read_text() == "x"


def _fill_and_die(folder: Path) -> None:
    with fill_beside(folder) as (temporary, put):
        (temporary / "whole").write_text("x")
        put("whole")
        (temporary / "half").write_text("x")
        while not (folder / "whole").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_goes_and_what_a_living_one_fills_stays(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_fill_and_die, args=(tmp_path,))
    killed.start()
    killed.join()
    assert len(list(tmp_path.iterdir())) == 2
    with fill_beside(tmp_path) as (mine, put):
        assert {path.name for path in tmp_path.iterdir()} == {"whole", mine.name}
        with fill_beside(tmp_path) as (another, _):
            assert mine.is_dir() and another.is_dir()
        (mine / "next").write_text("x")
        put("next")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next", "whole"]


def peak_of(work) -> int:
    """Most bytes held at once, beyond what was held before."""
    work()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_reading_holds_one_file_beside_the_image(tmp_path: Path) -> None:
    shape = (40, 128, 128)
    files = [tmp_path / f"case_000{index}.nii.gz" for index in range(4)]
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    for file in files:
        save_nifti(file, noise, Geometry(shape, (1.0, 1.0, 1.0)))
    case = SourceCase("case", "case", tuple(ChannelFile(file) for file in files))
    volume = int(np.prod(shape)) * 4
    assert peak_of(lambda: read_image(case)) < 6.5 * volume, "four channels, and a file, twice while it is unpacked"


@pytest.mark.parametrize("scheme", ["ct", "none"])
def test_preparing_holds_one_image_beside_the_callers(scheme: str, small: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = small
    plan = plan_dataset(workspace, dataset, processes=1).model_copy(update={"normalisation": (scheme,)})
    image = np.random.default_rng(0).random((1, 60, 128, 128), dtype=np.float32) + 1
    labels = np.ones(image.shape[1:], np.uint8)
    before = image.copy()
    chosen = plan.configurations["3d_fullres"]
    peak = peak_of(lambda: prepare_case(image, (1.0, 1.0, 1.0), labels, plan, chosen))
    assert (image == before).all(), "the caller keeps the image"
    assert peak < 2.1 * image.nbytes, "the result, its labels and masks; no further copy of the image"


def _facts(case: SourceCase, declared: frozenset[int]) -> CaseFacts:
    random = np.random.default_rng(int(case.id.removeprefix("case")))
    values = random.permutation(100_000)[:50_000].astype(np.float32)
    return CaseFacts((9, 9, 9), (1.0, 1.0, 1.0), 1.0, (ValueHistogram.of(values),))


def test_the_fingerprint_holds_one_histogram_however_many_cases(
    small: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = small[1]
    monkeypatch.setattr(fingerprint, "case_facts", _facts)

    def peak(cases: int) -> int:
        many = tuple(SourceCase(f"case{number}", "x", (ChannelFile(Path("x")),)) for number in range(cases))
        changed = Dataset(**{**vars(dataset), "cases": many})
        return peak_of(lambda: extract_fingerprint(changed, processes=1))

    assert peak(40) < 1.1 * peak(4)


def _zeros(number: int) -> np.ndarray:
    return np.zeros(number)


def test_results_of_workers_are_let_go_of() -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    for _, result in map_cases(_zeros, range(1, 7), "zeros", 2):
        assert not [reference for reference in seen if reference() is not None]
        seen.append(weakref.ref(result))
        del result
    assert len(seen) == 6


def _parent(number: int) -> int:
    return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked off a server on Linux")
def test_workers_of_all_pools_come_from_one_server() -> None:
    parents = {parent for _ in range(2) for _, parent in map_cases(_parent, [1, 2, 3], "parents", 2)}
    assert len(parents) == 1
    assert os.getpid() not in parents


def test_workers_are_as_many_as_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler gives a job a few of a machine's cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert {parent for _, parent in map_cases(_parent, [1, 2, 3], "parents")} == {os.getppid()}, "in this process"


def _note(number: int, folder: Path) -> int:
    (folder / str(number)).write_text("begun")
    time.sleep(0.02)
    return number


def test_work_not_yet_begun_is_dropped_when_the_caller_stops(tmp_path: Path) -> None:
    many = 200
    results = map_cases(partial(_note, folder=tmp_path), range(many), "notes", 2)
    with pytest.raises(KeyboardInterrupt), closing(results):
        for _ in results:
            raise KeyboardInterrupt
    begun = len(list(tmp_path.iterdir()))
    assert 0 < begun < many // 2


def test_an_interrupt_between_cases_leaves_no_temporary_folder(
    small: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = small
    plan = plan_dataset(workspace, dataset, processes=1)

    @contextmanager
    def interrupted(folder: Path, needed: object):
        def put(name: str) -> None:
            raise KeyboardInterrupt

        with fill_beside(folder) as (temporary, _):
            yield temporary, put

    monkeypatch.setattr(prepare, "fill_beside", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess_configurations(workspace, dataset, plan, ["2d"], processes=2)
    assert [path.name for path in workspace.case_store("2d").iterdir()] == ["key"]


HEAVY = {"blosc2", "torch", "scipy.ndimage", "numba", "openvino", "SimpleITK", "batchgenerators", "PIL", "typer"}


@pytest.mark.parametrize("module", ["nnunet_box.execution.prepare", "nnunet_box.preprocessing.fingerprint"])
def test_what_a_worker_loads(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {*done.stdout.split()} & HEAVY
