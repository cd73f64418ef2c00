"""``nnbox verify-submission image``: everything an organiser would refuse an image for, before it is uploaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion
from nnunet_box.cli.common import print_json
from nnunet_box.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnbox_containers.engine import ImageFacts
    from nnbox_containers.inside import Inside
    from nnbox_containers.profile import Profile
    from nnbox_containers.staging import GivenCase
    from nnbox_containers.verify import Judgement
    from nnunet_box.bundle import Bundle
    from nnunet_box.dataset.cases import SourceCase
    from nnunet_box.dataset.challenge import Challenge

    Judge = Callable[[str, Path], Judgement]


def verify(
    tag: Annotated[str, typer.Argument(help="The image's name, such as nnbox-acdc:1.0.")],
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", help="Whose contract; the one it was built for by default.", autocompletion=completion.profiles
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            help="The model it holds; WORKSPACE/bundles/DATASET by default.",
            autocompletion=completion.bundles,
        ),
    ] = None,
    case: Annotated[
        list[Path] | None, typer.Option("--case", help="An image file, or a folder of one case's channels. Repeatable.")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="A whole test folder, as the challenge ships it.")
    ] = None,
    generate: Annotated[int, typer.Option("--generate", help="Cases to draw where none is given.", min=1, max=100)] = 1,
    budget_per_case: Annotated[
        str | None, typer.Option("--budget-per-case", help="Time a case may take, such as 60s or 5m.")
    ] = None,
    time_limit: Annotated[str, typer.Option("--time-limit", help="For one start of the container.")] = "1h",
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Predict here too, and compare voxel by voxel.")
    ] = True,
    save: Annotated[
        Path | None, typer.Option("--save", help="Keep the archive here (.tar or .tar.gz), with a report beside it.")
    ] = None,
    archive: Annotated[
        bool, typer.Option("--archive/--no-archive", help="Save the image and open the archive again.")
    ] = True,
    report: Annotated[Path | None, typer.Option("--report", help="Write the report as JSON.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Load the saved archive into the engine again.")] = False,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="For the prediction made here: auto, cpu or cuda.", autocompletion=completion.devices
        ),
    ] = "auto",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Inspect, run under the strictest limits, compare with the prediction made here, save, and open the archive again.

    Ends with exit code 5 and the first reason if an organiser would refuse it; all findings are listed.

    Example: nnbox verify-submission image nnbox-acdc:1.0 --case patient101_frame01.nii.gz --save acdc.tar.gz
    """
    import tempfile

    from nnbox_containers.checks import OWN, first_failure
    from nnbox_containers.docker_engine import DockerEngine
    from nnbox_containers.engine import ImageMissing
    from nnbox_containers.inside import look_inside
    from nnbox_containers.profiles import load_profile
    from nnbox_containers.verify import Wishes, verify_image
    from nnunet_box.errors import UsageError, VerificationFailed
    from nnunet_box.files import write_json
    from nnunet_box.training.budget import parse_duration

    budget = parse_duration(budget_per_case) if budget_per_case is not None else None
    wishes = Wishes(budget, parse_duration(time_limit), archive or save is not None, save, reload)
    if save is not None and not save.name.endswith((".tar", ".tar.gz")):
        raise UsageError(f"--save {save}: name it .tar or .tar.gz, which platforms take.")
    engine = DockerEngine()
    try:
        facts = engine.inspect(tag)
    except ImageMissing as error:
        raise UsageError(f"{error} nnbox build-submission image makes one.") from error
    contract = load_profile(profile or facts.labels.get(f"{OWN}profile") or _unknown_profile(tag))
    say(f"{tag}: verifying for {contract.name}")
    inside = look_inside(engine, tag, facts)
    model = _bundle(workspace, bundle, facts, tag, compare)
    shipped = inside.bundle or (model[1] if model is not None else None)
    if shipped is None:
        raise UsageError(
            f"{tag} tells nothing of its model ({inside.problem or 'no bundle in it'}): give --bundle DIR."
        )
    with tempfile.TemporaryDirectory(prefix="nnbox-verify-") as scratch:
        adapter = _adapter(contract, inside, shipped)
        sources = _sources(shipped, adapter, cases, case or [], generate, Path(scratch) / "drawn")
        whole = cases if contract.layout == "folder" and contract.cases == "folder" else None
        judge = None
        if compare and model is not None:
            judge = _judge(shipped, model[0], sources, adapter, device, Path(scratch) / "here")
        given = [_given(source) for source in sources]
        result = verify_image(engine, tag, facts, inside, contract, given, judge, wishes, model, whole)
    for file in (report, save.with_name(f"{save.name}.json") if save is not None else None):
        if file is not None:
            write_json(file, result.as_json())
    if as_json:
        print_json(result.as_json())
    else:
        for line in result.lines():
            typer.echo(line)
    failed = first_failure(result.checks)
    if failed is not None:
        more = sum(not check.ok for check in result.checks) - 1
        also = f" ({more} more)" if more else ""
        raise VerificationFailed(f"{tag} would be refused: {failed.reason}{also}")
    say(f"{tag}: {len(result.checks)} checks, none failed." + (f" Upload {save}." if save is not None else ""))


def _unknown_profile(tag: str) -> str:
    from nnunet_box.errors import UsageError

    raise UsageError(f"{tag} does not say whose contract it was built for: give --profile; nnbox profiles lists them.")


def _bundle(
    workspace: Path, given: Path | None, facts: ImageFacts, tag: str, needed: bool
) -> tuple[Path, Bundle] | None:
    """The folder given, or that of the workspace's data set of the image's name; None where there is none and nothing
    is to be compared.
    """
    from nnbox_containers.checks import OWN
    from nnunet_box.bundle import BUNDLE_FILE, load_bundle
    from nnunet_box.errors import UsageError

    name = facts.labels.get(f"{OWN}dataset", "")
    found = given or workspace / "bundles" / Path(name).name
    if given is not None or (name and (found / BUNDLE_FILE).is_file()):
        return found, load_bundle(found, check_weights=True)
    if needed:
        raise UsageError(
            f"{tag} is compared with the bundle it was built from, and {found} is none: give --bundle DIR, "
            "or --no-compare to check all but its predictions."
        )
    return None


def _adapter(profile: Profile, inside: Inside, bundle: Bundle) -> Challenge | None:
    """Whose adapter reads and writes in the image; None where the layout decides alone, as the image's front end has
    it.
    """
    from nnunet_box.dataset.challenge import load_challenge

    if profile.layout != "folder":
        return None
    name = inside.contract.challenge if inside.contract is not None else bundle.challenge
    return load_challenge(name) if name is not None else None


def _sources(
    bundle: Bundle, adapter: Challenge | None, folder: Path | None, files: Sequence[Path], generate: int, drawn: Path
) -> list[SourceCase]:
    """The cases to try; drawn ones where none is given.

    Raises
    ------
    UsageError: both a folder and single cases. InvalidData: as ``input_cases``.
    """
    from dataclasses import replace

    from nnunet_box.errors import UsageError
    from nnunet_box.inference.folder import check_cases, input_cases
    from nnunet_box.inference.trial import draw_cases

    channels = len(bundle.channel_names)
    if folder is not None and files:
        raise UsageError("Give --cases FOLDER or --case FILE, not both.")
    if folder is not None:
        return list(input_cases(folder, channels, adapter))
    if not files:
        return list(draw_cases(bundle.plan, drawn, generate))
    found = [source for file in files for source in input_cases(file, channels, None)]
    check_cases(found, files[0])
    return [replace(source, output_name=f"{source.id}.nii.gz") for source in found]


def _given(source: SourceCase) -> GivenCase:
    from functools import partial

    from nnbox_containers.staging import GivenCase
    from nnunet_box.dataset.channels import put_channel

    return GivenCase(source.id, len(source.channels), partial(put_channel, source), source.output_name)


def _judge(
    bundle: Bundle, folder: Path, sources: Sequence[SourceCase], adapter: Challenge | None, device: str, scratch: Path
) -> Judge:
    """Predicts a case here when the image's prediction of it is there, and compares the two."""
    from nnbox_containers.verify import Judgement
    from nnunet_box.dataset.cases import read_image
    from nnunet_box.dataset.challenge import SubmissionForm
    from nnunet_box.errors import InvalidData
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.ensemble import InferenceOptions
    from nnunet_box.inference.folder import Predictor, exporter
    from nnunet_box.submission.compare import different_voxels, file_problems

    load, runtime = network_loader(bundle.plan, "auto", device)
    say(f"Comparing with a prediction made here, {runtime}")
    options = InferenceOptions(mirroring=bundle.mirroring)
    predictor = Predictor(bundle, bundle.ensemble(folder), load, options)
    form = adapter.facts.form if adapter is not None else SubmissionForm()
    export, by_id = exporter(adapter), {source.id: source for source in sources}
    labels = frozenset(form.labels if form.labels is not None else bundle.labels)

    def judge(case_id: str, file: Path) -> Judgement:
        source = by_id[case_id]
        problems = file_problems(file, source, labels, form)
        image, geometry = read_image(source)
        scratch.mkdir(exist_ok=True)
        ours = export(predictor.labels(image, geometry.spacing, None), source, scratch)
        try:
            different, voxels = different_voxels(file, ours)
        except InvalidData as error:
            return Judgement(None, 0, problems or (str(error),))
        return Judgement(1 - different / voxels, different, problems)

    return judge
