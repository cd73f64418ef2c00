"""Workspaces that reports are made of; made once."""

from __future__ import annotations

import pytest

from nnunet_box.report.gather import gather
from nnunet_box.report.page import write_report
from tests.report.finished_workspace import finished_workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(workspace, dataset) with everything done. Not to be changed."""
    return finished_workspace(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def facts(finished):
    return gather(*finished, processes=1)


@pytest.fixture(scope="session")
def page_file(finished, facts, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_report(facts, file, finished[0].bundle, processes=1)
    return file
