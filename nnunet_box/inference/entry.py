"""What a submission image runs: ``python -m nnunet_box.inference.entry``. Needs neither the command line nor
training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.challenge import load_challenge
from nnunet_box.errors import NnboxError
from nnunet_box.inference.choose import RUNTIMES, network_loader
from nnunet_box.inference.ensemble import InferenceOptions
from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder
from nnunet_box.progress import say

INTERRUPTED = 130


def run(
    bundle_folder: Path, source: Path, output: Path, runtime: str, device: str, options: InferenceOptions
) -> None:
    """Predict ``source`` with a bundle into ``output``."""
    bundle = load_bundle(bundle_folder)
    challenge = load_challenge(bundle.challenge) if bundle.challenge else None
    cases = input_cases(source, len(bundle.channel_names), challenge)
    load, description = network_loader(bundle.plan, runtime, device)
    say(f"{bundle.dataset}: {len(cases)} cases, {description}")
    predictor = Predictor(bundle, bundle.ensemble(bundle_folder), load, options, description)
    predict_folder(predictor, cases, output, exporter(challenge))


def main(arguments: list[str] | None = None) -> int:
    """Exit codes as the command line's."""
    parser = argparse.ArgumentParser(prog="nnbox-predict", description="Predict a challenge's test folder.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-mirroring", action="store_true")
    parsed = parser.parse_args(arguments)
    try:
        run(
            parsed.bundle,
            parsed.input,
            parsed.output,
            parsed.runtime,
            parsed.device,
            InferenceOptions(mirroring=not parsed.no_mirroring),
        )
    except NnboxError as error:
        print(f"nnbox: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
