"""The Ray cluster that the tests marked cluster share out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from tests.execution.ray_samples import HEAD, NODE

START_SECONDS = 600


@pytest.fixture(scope="module")
def ray_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray is installed, and what it starts gets one thread: equal results need equally many, and nodes hand this on to
    their tasks.
    """
    if importlib.util.find_spec("ray") is None:
        message = "Ray is not installed: pip install 'nnunet_box[ray]'"
        if request.config.getoption("--require-ray"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # 15 otherwise: on a busy machine its turn would hardly ever come.
        patched.setenv("RAY_raylet_start_wait_time_s", str(START_SECONDS))
        yield


@pytest.fixture(scope="module")
def cluster(ray_here: None) -> Iterator[Any]:
    """A head, to which tests add nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[Any]]:
    """Two nodes with a GPU each, as Ray believes."""
    added = [cluster.add_node(**NODE) for _ in range(2)]
    cluster.wait_for_nodes(timeout=START_SECONDS)
    yield added
    for node in added:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)
