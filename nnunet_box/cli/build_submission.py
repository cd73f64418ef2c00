"""``nnbox build-submission``: from a selected model to an image an organiser runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import archive, completion
from nnunet_box.cli.common import CommandGroup, print_json
from nnunet_box.cli.options import DEFAULT_WORKSPACE, DatasetArgument, JsonOption, WorkspaceOption
from nnunet_box.cli.ready_bundle import PostprocessingRule, find_bundle, shipped_bundle
from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.bundle import Bundle


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=CommandGroup, help="Make what a challenge takes: an image, or its parts.", no_args_is_help=True
    )
    group.command("image")(image)
    group.command("archive")(archive.build)
    group.command("bundle")(bundle)
    group.command("wheelhouse")(wheelhouse)
    app.add_typer(group, name="build-submission")


def image(
    dataset: DatasetArgument = None,
    challenge: Annotated[
        str | None,
        typer.Option(
            "--challenge",
            "-c",
            help="Whose test layout the image reads; the bundle's by default.",
            autocompletion=completion.challenges,
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", "-t", help="The image's name; nnbox-DATASET:VERSION by default.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="The organiser's contract: one of nnbox profiles, or a FILE.toml of yours.",
            autocompletion=completion.profiles,
        ),
    ] = "folder",
    input_socket: Annotated[
        list[str] | None,
        typer.Option(
            "--input-socket", help="Slug of a channel's socket, in channel order or CHANNEL=SLUG. May be repeated."
        ),
    ] = None,
    output_socket: Annotated[
        str | None, typer.Option("--output-socket", help="Slug of the socket for the label map.")
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option(
            "--channel", help="Ending of a channel's file names, in order or CHANNEL=ENDING. May be repeated."
        ),
    ] = None,
    model_archive: Annotated[
        Path | None,
        typer.Option("--model-archive", help="Write the model to this .tar.gz, to be uploaded apart from the image."),
    ] = None,
    postprocess: Annotated[
        PostprocessingRule, typer.Option("--postprocess", help="auto: as cross-validation decided.")
    ] = PostprocessingRule.AUTO,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help="cpu (OpenVINO), cuda (torch), or auto: cuda where torch here has it.",
            autocompletion=completion.among("auto", "cpu", "cuda"),
        ),
    ] = "auto",
    base_image: Annotated[
        str | None, typer.Option("--base-image", help="Image with python3 to build on; python:X.Y-slim by default.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option("--wheelhouse", help="Folder of wheels; WORKSPACE/wheelhouse by default.")
    ] = None,
    budget_per_case: Annotated[
        str | None,
        typer.Option("--budget-per-case", help="Time a case may take, such as 60s; decides folds and mirroring."),
    ] = None,
    budget_case: Annotated[
        Path | None, typer.Option("--budget-case", help="Case to measure on; one of median size is drawn by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the Dockerfile and the context's files only.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Build the image that predicts the challenge's own test folder.

    Needs a container engine; the build itself uses no network. Prints the command that runs the image.

    Example: nnbox build-submission image --challenge acdc --postprocess largest-component
    """
    from functools import partial

    from nnbox_containers import build
    from nnbox_containers.display import BuildDisplay
    from nnbox_containers.docker_engine import DockerEngine
    from nnbox_containers.dockerfile import check_tag, default_tag
    from nnbox_containers.front_end import describe, image_contract
    from nnbox_containers.profiles import load_profile
    from nnbox_containers.wheelhouse import (
        build_pip,
        choose_runtime,
        fill_wheelhouse,
        find_wheel,
        image_needs,
        inference_pins,
    )
    from nnunet_box import __version__
    from nnunet_box.cli.case_budget import fit_bundle
    from nnunet_box.submission.record import write_image_record

    organiser = load_profile(profile)
    checked_tag = check_tag(tag, organiser.forbidden_tags) if tag is not None else None
    base = base_image or build.DEFAULT_BASE_IMAGE
    wheels_folder = wheelhouse or workspace / "wheelhouse"
    folder, found = find_bundle(workspace, dataset, challenge)
    shipped = shipped_bundle(found, build.agreed_challenge(folder, found, challenge), postprocess)
    needs = image_needs(choose_runtime(runtime), shipped.challenge, organiser.output_suffixes)
    if budget_per_case is not None and not dry_run:
        shipped = fit_bundle(folder, shipped, budget_per_case, budget_case, needs.runtime)
    name = checked_tag or default_tag(shipped.dataset, __version__)
    pins = inference_pins(needs)
    contract = image_contract(organiser, shipped, input_socket or (), output_socket, channel or ())
    for line in describe(contract, shipped.channel_names):
        say(line)
    recipe_of = partial(
        build.image_recipe,
        folder,
        shipped,
        organiser,
        pins,
        tag=name,
        base_image=base,
        contract=contract,
        runtime=needs.runtime,
        weights_apart=model_archive is not None,
    )
    if dry_run:
        fetched = [find_wheel(wheels_folder, pin) or Path(f"{pin} (to be fetched)") for pin in (*pins, build_pip())]
        own = Path("nnunet_box (to be packed)")
        planned = recipe_of([*fetched, own])
        if as_json:
            context = list(planned.context.names())
            told = {"tag": name, "profile": contract.model_dump(mode="json"), "dockerfile": planned.dockerfile}
            print_json(told | {"context": context})
            return
        typer.echo(planned.dockerfile)
        for entry in planned.context.names():
            typer.echo(f"# context: {entry}")
        return
    engine = DockerEngine()
    # Before the wheels: whoever has no engine, or the wrong base, learns it in a second and not after a download.
    base_identifier = build.check_base(engine, base)
    wheels = fill_wheelhouse(wheels_folder, needs)
    recipe = recipe_of(wheels, base_identifier=base_identifier)
    with BuildDisplay(f"Building {name} from {folder}") as display:
        facts = build.build_image(engine, recipe, display)
    if model_archive is not None:
        build.write_model_archive(model_archive, folder, shipped)
        say(f"{model_archive}: {model_archive.stat().st_size / 1e6:.0f} MB, the model, to be uploaded beside the image")
    descriptor = None
    if organiser.descriptor == "boutiques":
        descriptor = _write_descriptor(workspace / "submissions", name, shipped)
        say(f"{descriptor}: the descriptor to hand in with the image")
    run_line = organiser.run_line(name)
    result = {"tag": name, "id": facts.identifier, "size_bytes": facts.size_bytes, "labels": dict(facts.labels)}
    result |= {"challenge": shipped.challenge, "profile": contract.model_dump(mode="json"), "run": run_line}
    result |= {"descriptor": str(descriptor) if descriptor is not None else None}
    write_image_record(workspace / "submissions", shipped.dataset, result)
    if as_json:
        print_json(result)
        return
    say(f"{name}: {facts.size_bytes / 1e6:.0f} MB, {facts.identifier}, user {facts.user}")
    say("Run it, with absolute paths for TEST_FOLDER and OUT:")
    typer.echo(run_line)


def bundle(
    dataset: DatasetArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; WORKSPACE/bundles/DATASET by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Gather what selection chose, weights and postprocessing, into one portable folder.

    Example: nnbox build-submission bundle acdc -o acdc-bundle
    """
    import shutil

    from nnunet_box.cli.common import open_dataset
    from nnunet_box.execution.choose import bundle_dataset
    from nnunet_box.files import write_beside

    paths, opened = open_dataset(workspace, dataset)
    bundle_dataset(paths, opened)
    if output is not None:
        size = sum(file.stat().st_size for file in paths.bundle.rglob("*") if file.is_file())
        with write_beside(output, size) as temporary:
            shutil.copytree(paths.bundle, temporary)
    typer.echo(str(output or paths.bundle))
    say(f"Next: nnbox build-submission image {output or opened.name}")


def wheelhouse(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to fill; WORKSPACE/wheelhouse by default.")
    ] = None,
    challenge: Annotated[
        str | None,
        typer.Option(
            "--challenge",
            "-c",
            help="Needed only if its adapter is a third party's.",
            autocompletion=completion.challenges,
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help="cpu (OpenVINO), cuda (torch), or auto: cuda where torch here has it.",
            autocompletion=completion.among("auto", "cpu", "cuda"),
        ),
    ] = "auto",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Collect the wheels an image needs, so that it can be built where there is no network.

    Example: nnbox build-submission wheelhouse -o wheels
    """
    from nnbox_containers.wheelhouse import choose_runtime, fill_wheelhouse, image_needs

    folder = output or workspace / "wheelhouse"
    chosen = choose_runtime(runtime)
    wheels = fill_wheelhouse(folder, image_needs(chosen, challenge))
    if as_json:
        print_json({"folder": str(folder), "wheels": [wheel.name for wheel in wheels]})
    else:
        for wheel in wheels:
            typer.echo(str(wheel))
    say(f"{folder}: {len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.0f} MB")
    say(f"Next: nnbox build-submission image --runtime {chosen} --wheelhouse {folder}")


def _write_descriptor(folder: Path, tag: str, bundle: Bundle) -> Path:
    from nnbox_containers.boutiques import boutiques_descriptor
    from nnunet_box import __version__
    from nnunet_box.files import write_beside

    file = folder / f"{tag.rsplit('/', 1)[-1].replace(':', '-')}.boutiques.json"
    text = boutiques_descriptor(tag, f"nnU-Net for {bundle.dataset}", __version__, bundle.channel_names)
    with write_beside(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return file
