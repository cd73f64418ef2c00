"""Options and data that all rooms' tests share."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

PODMAN_SOCKETS = (
    "/run/nnbox-podman/podman.sock",
    "/run/podman/podman.sock",
    f"/run/user/{os.getuid()}/podman/podman.sock",
)
SLURM_CONFIGURATION = "/run/nnbox-slurm/slurm.conf"
REPOSITORY = Path(__file__).resolve().parents[1]
AXE = REPOSITORY / "tests" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REAL_DATA_PLACES = (REPOSITORY / "shared" / "data", REPOSITORY.parent / "shared" / "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data", type=Path, default=None, help="Folder of real images (MSD/, ACDC/, ...) for real_data tests."
    )
    parser.addoption(
        "--require-engine", action="store_true", help="Fail docker tests, instead of skipping, without an engine."
    )
    parser.addoption(
        "--podman-host", default=None, help="Podman's DOCKER_HOST; .ci/podman.sh prints it. A known socket by default."
    )
    parser.addoption(
        "--require-podman", action="store_true", help="Fail podman tests, instead of skipping, without Podman."
    )
    parser.addoption("--require-ray", action="store_true", help="Fail Ray's tests, instead of skipping, without Ray.")
    parser.addoption(
        "--wheelhouse", type=Path, default=None, help="Folder of wheels for docker tests; fetched with pip by default."
    )
    parser.addoption(
        "--require-slurm", action="store_true", help="Fail the tests of a real Slurm, instead of skipping, without one."
    )
    parser.addoption(
        "--require-browser", action="store_true", help="Fail the browser's tests, instead of skipping, without one."
    )
    parser.addoption(
        "--screenshots", type=Path, default=None, help="Folder the browser's tests put pictures of their pages in."
    )
    parser.addoption("--base-image", default="nnbox-base:bookworm", help="Base image of docker tests that build one.")


def pytest_configure() -> None:
    # Processes beside each other share the cores, and so do the commands that their tests start.
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        share = max(1, len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
    # A shell starts what it puts into the background with SIGINT ignored, and every process below inherits that: the
    # tests of Ctrl-C would wait for an end that never comes.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


SHARING = frozenset({"e2e", "docs", "report"})
"""Folders whose files share a workspace that takes long to make."""


@functools.cache
def asks_engines(file: Path) -> bool:
    """Whether any test of a file asks a container engine; there is one of each for the whole machine."""
    text = file.read_text(encoding="utf-8")
    return "mark.docker" in text or "mark.podman" in text


@functools.cache
def process_of(file: Path) -> str:
    """For ``pytest -n``: files of one name go to one process. A file's tests share what is made once, and so do those
    of some folders. All that ask engines stay together: each process would build the same images, and prune what
    another builds on.
    """
    together = file.parent.name in SHARING
    files = file.parent.glob("test_*.py") if together else (file,)
    if any(asks_engines(one) for one in files):
        return "engines"
    return file.parent.name if together else str(file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``pytest -n`` what takes long comes first, so that the processes end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (process_of(item.path) != "engines", item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests by ``process_of``."""
    from xdist.scheduler import LoadScopeScheduling

    class ByProcess(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(config.rootpath / nodeid.partition("::")[0])

    return ByProcess(config, log)


def real_data_folder(config: pytest.Config) -> Path | None:
    chosen = config.getoption("--real-data")
    places = (chosen,) if chosen is not None else REAL_DATA_PLACES
    return next((place for place in places if (place / "ACDC" / "database").is_dir()), None)


@functools.cache
def engine_problem(host: str | None = None) -> str | None:
    """Why no container engine answers, at ``host`` or the usual place; None where one does."""
    import docker

    try:
        client = docker.DockerClient(host) if host else docker.from_env()
        try:
            client.ping()
        finally:
            client.close()
    except docker.errors.DockerException as error:
        return str(error).splitlines()[0]
    return None


def podman_host(config: pytest.Config) -> str | None:
    """The address of Podman's service; None where there is none."""
    chosen: str | None = config.getoption("--podman-host")
    sockets = (f"unix://{path}" for path in PODMAN_SOCKETS if os.access(path, os.R_OK | os.W_OK))
    host = chosen or next(sockets, None)
    return host if host is not None and engine_problem(host) is None else None


def browser_problem() -> str | None:
    """What the tests in a browser lack; None where they have all."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    if not any(shutil.which(name) for name in BROWSERS):
        return "no Chromium"
    return None if AXE.is_file() else "no axe-core"


@functools.cache
def slurm_problem() -> str | None:
    """Why no Slurm answers, the one ``SLURM_CONF`` names or that of ``.ci/slurm.sh``; None where one does."""
    if "SLURM_CONF" not in os.environ and Path(SLURM_CONFIGURATION).is_file():
        os.environ["SLURM_CONF"] = SLURM_CONFIGURATION
    try:
        asked = subprocess.run(["sinfo", "--noheader", "--format=%G"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if asked.returncode:
        return asked.stderr.partition("\n")[0]
    return None if "gpu" in asked.stdout else "it has no GPUs"


@pytest.fixture(scope="session")
def real_slurm(request: pytest.FixtureRequest) -> None:
    """A Slurm answers, and the environment says which."""
    problem = slurm_problem()
    if problem is None:
        return
    skip_or_fail(request.config, "--require-slurm", f"no Slurm answers ({problem}): .ci/slurm.sh starts one")


def skip_or_fail(config: pytest.Config, required: str, message: str) -> None:
    """What a test needs is not here; with the option ``required`` it has to be."""
    if config.getoption(required):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_data") and real_data_folder(item.config) is None:
        pytest.skip("no real images: give --real-data DIR")
    if item.get_closest_marker("docker") and (problem := engine_problem()) is not None:
        skip_or_fail(item.config, "--require-engine", f"no container engine answers: {problem}")
    if item.get_closest_marker("browser") and (problem := browser_problem()) is not None:
        skip_or_fail(item.config, "--require-browser", f"{problem}: .ci/browser.sh and make test install it")
    if item.get_closest_marker("podman") and podman_host(item.config) is None:
        message = "no podman answers: .ci/podman.sh starts it, --podman-host names it"
        skip_or_fail(item.config, "--require-podman", message)


@pytest.fixture(scope="session")
def podman_address(request: pytest.FixtureRequest) -> str:
    """DOCKER_HOST for Podman; only tests marked podman ask for it, which are skipped where there is none."""
    host = podman_host(request.config)
    assert host is not None
    return host


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real images."""
    folder = real_data_folder(request.config)
    if folder is None:
        pytest.skip("no real images: give --real-data DIR")
    return folder


@pytest.fixture(scope="session")
def acdc_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic ACDC download: ten training patients, two test patients, small. Read-only by agreement."""
    from nnbox_challenges.synthetic import write_acdc_cohort

    folder = tmp_path_factory.mktemp("acdc")
    write_acdc_cohort(folder, patients=10, test_patients=2, seed=7, size=48, slices=(5, 6))
    return folder


@pytest.fixture(scope="session")
def base_image(request: pytest.FixtureRequest) -> str:
    """Name of a base image that is present in the engine; containers/base/debian.sh makes the default one."""
    import docker

    name: str = request.config.getoption("--base-image")
    client = docker.from_env()
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        message = f"no base image {name}: make it with containers/base/debian.sh {name}, or give --base-image"
        if request.config.getoption("--require-engine"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    finally:
        client.close()
    return name
