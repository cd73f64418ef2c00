"""The lines that the documentation tells people to type, and what a test makes of them."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

RUN_PAGES = (
    "README.md",
    "docs/tutorial-acdc.md",
    "docs/howto-nnunet-model.md",
    "docs/howto-no-gpu.md",
    "docs/howto-slurm.md",
    "docs/howto-own-challenge.md",
    "docs/commands.md",
    "docs/scale.md",
    "challenges/README.md",
)
"""Pages whose commands are run, in the order of the page."""

OTHER_PAGES = {
    "CONTRIBUTING.md": "make targets, which continuous integration runs",
    "containers/README.md": "images of several models, one a profile, which tests/containers builds",
    "docs/apptainer.md": "Apptainer, which the machine of the tests does not have; the page says so",
    "docs/fidelity.md": "what was run for the page's figures",
    "docs/nnunet-parity.md": "what was run for the page's figures",
    "docs/performance.md": "benchmarks, which take half an hour",
    "docs/reliability.md": "runs of hours, of which the page has the figures",
    "docs/results.md": "trainings on real images, of which the page has the figures",
}
"""Pages whose commands are read alone, each with the reason."""

TINY = "--epochs 1 --batches-per-epoch 1 --workers 0 --device cpu"
SUBSTITUTIONS = (
    (r"^(nnbox (?:train|train-all|ablate)\b.*?) --budget \S+", r"\1", "a real training takes hours"),
    (r"^(nnbox train-all\b.*?) --folds \S+", r"\1", "so that the fold below is the only one"),
    (r"^(nnbox train-all\b.*)$", r"\1 --folds 0", "one fold of the five"),
    (r"^(nnbox train-all Dataset101_Kidneys\b.*)$", r"\1 --configurations 2d", "one configuration of the two"),
    (r"^(nnbox ablate\b.*?) --variants \S+", r"\1", "so that the row below is the only one"),
    (r"^(nnbox ablate\b.*)$", r"\1 --variants relu", "one row of the six"),
    (r"^(nnbox (?:train|train-all|ablate)\b.*)$", rf"\1 {TINY}", "one update shows that the line works"),
    (r"^(nnbox report\b.*?) --open\b", r"\1", "no browser of the test's machine is to open"),
    (r" --memory-gb \S+", "", "another plan would have all of it trained again"),
    (r"/shared/nnbox", "shared/nnbox", "a folder of the test's"),
    (r"^(nnbox build-submission image\b(?!.*--dry-run).*)$", r"\1 --dry-run", "tests marked docker build it"),
)
"""Pattern, replacement, reason; applied in this order."""

ELSEWHERE = (
    (r"^nnbox demo\b", "tests/e2e/test_demo.py"),
    (r"^nnbox verify-submission image\b", "tests/docs/test_documented_image.py"),
    (r"^nnbox view\b", "tests/browser/test_view.py"),
    (r"^docker run\b", "tests/docs/test_documented_image.py"),
    (r"^nnbox build-submission wheelhouse\b", "tests/containers/test_build_submission.py"),
    (r"^nnbox train-all\b(?!.*--dry-run).*--executor slurm", "tests/execution/test_slurm.py"),
    (r"^nnbox train-all\b.*--executor ray", "tests/execution/test_ray.py"),
    (r"^ray start\b", "tests/execution/test_ray.py"),
    (r"^make (?:demo|test)\b", ".ci/run"),
)
"""What a page's test leaves out, and the file that runs such a line."""

NOT_RUN = (
    (r"^pip install -c constraints\.txt ", "it would change the environment of the tests; the Makefile does the same"),
    (r"^kubectl\b", "there is no Kubernetes; the page says so"),
)

SHELL = r"(?:nnbox|make|pip|docker|ray|kubectl|python)\b"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the page's fenced blocks."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)


def lines(page: str) -> list[str]:
    """What a person would type: commands in fenced blocks without a language, or of a shell, continued lines joined."""
    typed = [text for language, text in blocks(page) if language in ("", "sh", "bash")]
    joined = [line.strip() for text in typed for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in joined if re.match(SHELL, line)]


def elsewhere(line: str) -> str | None:
    """The file that runs this line, or why nothing does; None where the page's own test does."""
    return next((where for pattern, where in (*ELSEWHERE, *NOT_RUN) if re.search(pattern, line)), None)


def as_run(line: str) -> str:
    """The line as the test runs it."""
    for pattern, replacement, _ in SUBSTITUTIONS:
        line = re.sub(pattern, replacement, line)
    return line
