"""Which bundle ``nnbox build-submission image`` means, and how it is shipped."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.bundle import Bundle


class PostprocessingRule(StrEnum):
    """What becomes of small components: cross-validation's decision, nothing, or the paper's rule for LiTS."""

    AUTO = "auto"
    NONE = "none"
    LARGEST_COMPONENT = "largest-component"


def find_bundle(workspace: Path, dataset: str | None, challenge: str | None) -> tuple[Path, Bundle]:
    """The folder of the bundle that is meant, and its content; made first where a selection exists and no bundle."""
    from nnunet_box.bundle import BUNDLE_FILE, load_bundle
    from nnunet_box.cli.common import open_dataset
    from nnunet_box.errors import UsageError
    from nnunet_box.workspace import Workspace

    name = dataset if dataset is not None else _only_bundle(workspace, challenge)
    if (Path(name) / BUNDLE_FILE).is_file():
        return Path(name), load_bundle(Path(name), check_weights=True)
    # A dataset may also be named by the path of its folder.
    paths = Workspace(workspace, Path(name).name)
    if not paths.bundle.is_dir():
        if not paths.selection.is_file():
            raise UsageError(f"No trained model of {paths.dataset} in {workspace}: nnbox train-all {paths.dataset}")
        from nnunet_box.execution.choose import bundle_dataset

        bundle_dataset(*open_dataset(workspace, name))
        say(f"Bundled {paths.dataset} into {paths.bundle}")
    return paths.bundle, load_bundle(paths.bundle, check_weights=True)


def _only_bundle(workspace: Path, challenge: str | None) -> str:
    """Name of the one dataset that is ready; of several, the one that belongs to ``challenge``."""
    from nnunet_box.bundle import load_bundle
    from nnunet_box.errors import UsageError

    bundles = {path.parent.name for path in (workspace / "bundles").glob("[!.]*/bundle.json")}
    selected = {path.parent.name for path in (workspace / "models").glob("[!.]*/selection.json")}
    ready = sorted(bundles | selected)
    if not ready:
        raise UsageError(f"{workspace} holds no trained model: nnbox train-all, or --workspace for another folder.")
    if len(ready) > 1 and challenge is not None:
        ready = [
            name
            for name in ready
            if name == challenge
            or (name in bundles and load_bundle(workspace / "bundles" / name).challenge == challenge)
        ] or ready
    if len(ready) > 1:
        raise UsageError(f"Which data set? {workspace} holds models of {', '.join(ready)}; name one.")
    return ready[0]


def shipped_bundle(bundle: Bundle, challenge: str | None, rule: PostprocessingRule) -> Bundle:
    """The bundle as the image holds it, with the challenge and the postprocessing asked for."""
    from nnunet_box.evaluation.postprocessing import Postprocessing, largest_foreground

    update: dict[str, object] = {"challenge": challenge}
    if rule is PostprocessingRule.NONE:
        update["postprocessing"] = Postprocessing()
    elif rule is PostprocessingRule.LARGEST_COMPONENT:
        update["postprocessing"] = largest_foreground(bundle.labels)
    return bundle.model_copy(update=update)
