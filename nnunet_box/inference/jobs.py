"""What a submission image does with its input, by the layout that its organiser chose."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_box.bundle import BUNDLE_FILE, Bundle, load_bundle
from nnunet_box.contract import Contract
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.challenge import load_challenge
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.inference.case_folders import case_folders
from nnunet_box.inference.choose import network_loader
from nnunet_box.inference.ensemble import InferenceOptions, LoadNetwork, Member
from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder
from nnunet_box.inference.kept import KeptNetworks
from nnunet_box.inference.sockets import predict_sockets
from nnunet_box.progress import say


@dataclass(frozen=True)
class Job:
    """What was asked for on the command line; None and empty where the contract decides.

    inputs: a folder, or files in the order of the channels, each perhaps after ``CHANNEL=``. output: a folder, or the
    file of the label map.
    """

    bundle: Path | None = None
    inputs: tuple[str, ...] = ()
    output: Path | None = None
    device: str = "auto"
    runtime: str = "auto"
    mirroring: bool = True
    resume: bool = False


def output_folder(job: Job, contract: Contract | None) -> Path | None:
    """The folder below which a job writes; None where neither says."""
    if job.output is not None:
        return job.output.parent if is_volume(job.output) else job.output
    return Path(contract.output) if contract is not None else None


def run_job(job: Job, contract: Contract | None) -> None:
    """Predict. Without a contract the job names bundle, input and output.

    Raises
    ------
    UsageError: the two together do not say what to predict. InvalidData, NnboxError: as ``predict_folder``.
    """
    layout, source, output = _places(job, contract)
    folder = job.bundle or _bundle_folder(contract)
    bundle = load_bundle(folder)
    load, runtime = network_loader(bundle.plan, job.runtime, job.device)
    members = bundle.ensemble(folder)
    options = InferenceOptions(mirroring=job.mirroring and bundle.mirroring)
    record = contract.record if contract is not None else True
    if layout == "sockets":
        assert contract is not None
        _check_channels(contract, bundle)
        serving = contract.entry == "http"
        predictor = Predictor(bundle, members, _kept(load, members) if serving else load, options, runtime)
        say(f"{bundle.dataset}: {sum(member.networks for member in members)} networks, {runtime}")
        socket = str(contract.output_socket)
        predict = functools.partial(predict_sockets, predictor, source, output, contract.channels, socket, record)
        if serving:
            from nnunet_box.inference.server import serve

            assert contract.port is not None
            serve(predict, contract.port)
        else:
            print(json.dumps(predict()), flush=True)
        return
    challenge = None
    if layout == "files":
        cases: Sequence[SourceCase] = [_named_files(job, bundle)]
    elif layout == "case-folders":
        assert contract is not None
        _check_channels(contract, bundle)
        cases = case_folders(source, contract.channels)
    else:
        name = contract.challenge if contract is not None else bundle.challenge
        challenge = load_challenge(name) if name is not None else None
        cases = input_cases(source, len(bundle.channel_names), challenge)
    say(f"{bundle.dataset}: {len(cases)} cases, {runtime}")
    predictor = Predictor(bundle, members, load, options, runtime)
    record = record and layout != "files"
    run = predict_folder(predictor, cases, output, exporter(challenge), job.resume, record=record)
    if not record:
        print(json.dumps(run), flush=True)


def _places(job: Job, contract: Contract | None) -> tuple[str, Path, Path]:
    """Layout, where the data is, and where predictions go."""
    output = output_folder(job, contract)
    if job.output is not None and is_volume(job.output):
        return "files", Path(), job.output.parent
    if contract is not None and contract.layout == "files" and not job.inputs:
        raise UsageError("Give --input FILE for each channel, in order or as CHANNEL=FILE, and --output FILE.nii.gz.")
    if len(job.inputs) > 1:
        raise UsageError(
            "Several --input are the channels of one case; then --output is a file, such as labels.nii.gz."
        )
    if output is None or (contract is None and not job.inputs):
        raise UsageError("Give --bundle, --input and --output; an image knows them from its profile.")
    layout = "folder" if contract is None or contract.layout == "files" else contract.layout
    return layout, Path(job.inputs[0] if job.inputs or contract is None else contract.input), output


def _bundle_folder(contract: Contract | None) -> Path:
    """The model: a mounted one comes before the image's own.

    Raises
    ------
    UsageError: nobody names one. InvalidData: what is mounted is no bundle, or neither is there.
    """
    if contract is None:
        raise UsageError("Give --bundle FOLDER, the model.")
    inside, mounted = Path(contract.bundle), Path(contract.model) if contract.model is not None else None
    if mounted is not None and mounted.is_dir() and any(mounted.iterdir()):
        if not (mounted / BUNDLE_FILE).is_file():
            names = ", ".join(sorted(path.name for path in mounted.iterdir())[:3])
            fix = "Upload the model.tar.gz that nnbox build-submission image --model-archive writes."
            raise InvalidData(mounted, f"a bundle, with its {BUNDLE_FILE}", names, fix)
        say(f"{mounted}: the model there is used")
        return mounted
    if mounted is not None and not (inside / BUNDLE_FILE).is_file():
        fix = "This image was built without weights: upload its model.tar.gz as the algorithm's model."
        raise InvalidData(mounted, "the model, mounted", "nothing", fix)
    return inside


def _check_channels(contract: Contract, bundle: Bundle) -> None:
    if len(contract.channels) != len(bundle.channel_names):
        names = ", ".join(bundle.channel_names)
        fix = "Build the image again with this model, or mount the model it was built for."
        expected = f"a model of {len(contract.channels)} channels ({', '.join(contract.channels)})"
        raise InvalidData(BUNDLE_FILE, expected, f"{len(bundle.channel_names)} ({names})", fix)


def _named_files(job: Job, bundle: Bundle) -> SourceCase:
    """The one case of ``--input`` for each channel and ``--output`` a file."""
    assert job.output is not None
    names = [name.lower() for name in bundle.channel_names]
    given: dict[int, Path] = {}
    for position, word in enumerate(job.inputs):
        name, equals, path = word.partition("=")
        named = bool(equals) and name.lower() in names
        index = names.index(name.lower()) if named else position
        if index in given or index >= len(names):
            raise UsageError(f"--input {word}: one file for each of {', '.join(bundle.channel_names)}.")
        given[index] = Path(path if named else word)
    if sorted(given) != list(range(len(names))):
        raise UsageError(f"Give --input once for each of {', '.join(bundle.channel_names)}; given {len(given)}.")
    case = strip_suffix(given[0])
    files = tuple(ChannelFile(given[index]) for index in sorted(given))
    return SourceCase(case, case, files, output_name=job.output.name)


def _kept(load: LoadNetwork, members: Sequence[Member]) -> LoadNetwork:
    """Load every network now and once: a server is asked for many cases, and a damaged file shows at its start."""
    kept = KeptNetworks(load, most_bytes=None).load
    for member in members:
        stage: Member | None = member
        while stage is not None:
            for weights in stage.weights:
                kept(stage, weights)
            stage = stage.previous_stage
    return kept
