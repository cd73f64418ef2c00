"""What a submission image runs: ``python -m nnunet_box.inference.entry``, and ``nnbox-predict`` there. Needs neither
the command line nor training.

Numeric libraries count processors when they are imported, so nothing that imports them is imported up here.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nnunet_box.contract import CONTRACT_FILE, read_contract
from nnunet_box.errors import NnboxError

PROFILE = Path("/opt/nnbox") / CONTRACT_FILE


def limit_processors(count: int) -> None:
    """Confine this process to ``count`` of the processors it may use, picked at random, so that not all containers of a
    machine share the same ones.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, random.sample(allowed, min(count, len(allowed))))


@contextmanager
def messages_on_stdout() -> Iterator[None]:
    """Within the block everything written to stderr, by whatever library, goes to stdout."""
    sys.stdout.flush()
    kept = os.dup(2)
    os.dup2(1, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def main(arguments: list[str] | None = None) -> int:
    """Exit codes as the command line's; 143 and 130 after SIGTERM and SIGINT."""
    parser = argparse.ArgumentParser(prog="nnbox-predict", description="Predict as this image's profile says.")
    parser.add_argument("--profile", type=Path, default=PROFILE, help="what the image knows of its organiser")
    parser.add_argument("--bundle", type=Path, help="another model")
    parser.add_argument(
        "--input", action="append", default=[], help="another folder; or a file for each channel, or CHANNEL=FILE"
    )
    parser.add_argument("--output", type=Path, help="another folder; or the label map to write, such as labels.nii.gz")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--runtime", default="auto", help="auto, torch or openvino: what runs the networks")
    parser.add_argument("--no-mirroring", action="store_true", help="8 times faster in 3D, a little worse")
    parser.add_argument("--resume", action="store_true", help="leave out cases whose prediction is there")
    parser.add_argument("--threads", type=int, help="processors to use; all, or as many as the profile says")
    parsed = parser.parse_args(arguments)
    try:
        contract = read_contract(parsed.profile) if parsed.profile != PROFILE or PROFILE.exists() else None
        threads = parsed.threads or (contract.threads if contract is not None else None)
        if threads is not None:
            limit_processors(max(1, threads))
        with ExitStack() as stack:
            if contract is not None and contract.silent_stderr:
                stack.enter_context(messages_on_stdout())
            from nnunet_box.inference.jobs import Job, output_folder, run_job
            from nnunet_box.inference.stopping import stop_on_signals

            job = Job(
                parsed.bundle,
                tuple(parsed.input),
                parsed.output,
                device=parsed.device,
                runtime=parsed.runtime,
                mirroring=not parsed.no_mirroring,
                resume=parsed.resume,
            )
            folder = output_folder(job, contract)
            stack.enter_context(stop_on_signals([folder] if folder is not None else []))
            run_job(job, contract)
    except NnboxError as error:
        print(f"nnbox: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
