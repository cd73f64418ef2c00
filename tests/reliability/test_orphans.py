"""Workers of a command that was killed alone end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chain_stages import PATIENCE_SECONDS, members, wait_until_gone

from nnunet_box.parallel import map_cases

HERE = Path(__file__).resolve().parent
POOL = "import sys, test_orphans; test_orphans.in_a_pool(sys.argv[1])"
LOADER = "import sys, test_orphans; test_orphans.in_a_loader(sys.argv[1])"


def work(folder: str) -> None:
    """Tell that it began, then go on for longer than anybody waits."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(10 * PATIENCE_SECONDS)


def in_a_pool(folder: str) -> None:
    list(map_cases(work, [folder] * 4, "work", 2))


class Batches:
    """What a data loader draws from."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> None:
        work(self.folder)


def in_a_loader(folder: str) -> None:
    from torch.utils.data import DataLoader

    from nnunet_box.training.batches import _begin_worker

    list(DataLoader(Batches(folder), num_workers=1, multiprocessing_context="spawn", worker_init_fn=_begin_worker))


@pytest.mark.parametrize(
    ("program", "workers"), [(POOL, 2), pytest.param(LOADER, 1, marks=pytest.mark.slow)], ids=["cases", "batches"]
)
def test_workers_end_with_the_command(tmp_path, program, workers):
    with (tmp_path / "words.txt").open("w") as words:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=HERE, stderr=words, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while len([path for path in tmp_path.iterdir() if path.name.isdigit()]) < workers:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "words.txt").read_text()
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert members(process.pid), "they are there when it dies"
        wait_until_gone(process.pid)
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
