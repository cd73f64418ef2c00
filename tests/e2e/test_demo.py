"""``nnbox demo``: its chain on very little of everything, its refusals, and what it shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from e2e_run import nnbox
from PIL import Image

from nnunet_box.cli import demo as command
from nnunet_box.cli import demo_chain, demo_image
from nnunet_box.cli.demo_chain import DemoSettings, prepare_workspace, run_demo
from nnunet_box.cli.demo_display import ChainDisplay, Listener, Step
from nnunet_box.errors import EngineUnavailable, NnboxError, UsageError
from nnunet_box.evaluation.comparison import Comparison, StructureScores


def no_engine(*_):
    raise EngineUnavailable("No container engine answers.")


@pytest.mark.slow
def test_chain_ends_in_a_table_a_picture_and_a_word_about_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_image, "usable_base", no_engine)
    workspace = tmp_path / "demo"
    settings = DemoSettings(workspace, 4.0, folds=1, patients=5, test_patients=1, size=32, slices=(4, 4), device="cpu")
    prepare_workspace(workspace, keep=False)
    result = run_demo(settings)
    assert set(result.comparison.cases) == {"patient101_ED", "patient101_ES"}
    assert list(command.dice_by_phase(result)) == ["right ventricle", "myocardium", "left ventricle"]
    assert result.image is None
    assert "systemctl start docker" in result.note
    assert Image.open(result.overlay).size[0] > 100
    # Going on from there changes nothing: the networks are done.
    weights = {path: path.stat().st_mtime_ns for path in (workspace / "models").rglob("weights.safetensors")}
    assert len(weights) == 2
    prepare_workspace(workspace, keep=True)
    again = run_demo(settings)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert again.comparison.as_json() == result.comparison.as_json()


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for keep in (False, True):
        with pytest.raises(UsageError, match="--workspace"):
            prepare_workspace(tmp_path, keep)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_earlier_demo_is_replaced_or_kept(tmp_path):
    prepare_workspace(tmp_path / "demo", keep=False)
    (tmp_path / "demo" / "left").touch()
    prepare_workspace(tmp_path / "demo", keep=True)
    assert (tmp_path / "demo" / "left").exists()
    prepare_workspace(tmp_path / "demo", keep=False)
    assert not (tmp_path / "demo" / "left").exists()


def result_of(dice: float, tmp_path: Path) -> demo_chain.DemoResult:
    scores = StructureScores(dice, dice, 1.0, 1.0, 1.0, dice)
    comparison = Comparison({1: "a", 2: "b"}, 1.0, {f"p_{phase}": {1: scores, 2: scores} for phase in ("ED", "ES")})
    selection = SimpleNamespace(chosen=("2d",), best=SimpleNamespace(mean_foreground_dice=dice))
    return demo_chain.DemoResult(comparison, selection, tmp_path / "overlay.png", None, "Image skipped: so it is.")


@pytest.mark.parametrize(("dice", "code"), [(0.9, 0), (command.SANITY_DICE, 0), (0.49, 1), (float("nan"), 1)])
def test_exit_code_says_whether_the_dice_is_sane(tmp_path, monkeypatch, dice, code):
    monkeypatch.setattr(demo_chain, "run_demo", lambda _: result_of(dice, tmp_path))
    ended = nnbox("demo", "--workspace", tmp_path / "demo")
    assert ended.code == code
    assert "overlay.png" in ended.out
    assert "Image skipped" in ended.err
    assert ("floor" in ended.err) == (code == 1)


def test_json_is_all_of_stdout(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_chain, "run_demo", lambda _: result_of(0.75, tmp_path))
    value = json.loads(nnbox("demo", "--workspace", tmp_path / "demo", "--json").out)
    assert value["dice"]["a"] == {"ED": 0.75, "ES": 0.75, "both": 0.75}
    assert value["image"] is None


def test_a_named_base_image_that_cannot_be_used_is_found_out_first(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_chain, "usable_base", no_engine)
    ended = nnbox("demo", "--workspace", tmp_path / "demo", "--base-image", "mine:1")
    assert ended.code == 4
    assert not (tmp_path / "demo" / "download").exists()


def test_files_that_differ_from_the_prediction_fail_the_demo(download, tmp_path):
    references = download / "references"
    ours, theirs = sorted(references.iterdir())[:2]
    assert demo_image.different_voxels(ours, ours) == 0
    assert demo_image.different_voxels(ours, theirs) > 0
    other = next(file for file in (download / "database").rglob("patient001_frame??.nii.gz"))
    with pytest.raises(NnboxError, match=other.name):
        demo_image.different_voxels(ours, other)

    class Writes:
        """An engine whose container writes the references with one patient's phases swapped."""

        def run(self, image, mounts, limits):
            assert limits.network == "none"
            assert limits.read_only
            output = next(mount.source for mount in mounts if not mount.read_only)
            for file in references.iterdir():
                name = file.name.replace("_ED", "_??").replace("_ES", "_ED").replace("_??", "_ES")
                (output / name).write_bytes(file.read_bytes())
            (output / "run.json").write_text("{}")
            return SimpleNamespace(exit_code=0, stdout="", stderr="")

    tests = download / "database" / "testing"
    with pytest.raises(NnboxError, match="predicts otherwise"):
        demo_image.run_and_compare(Writes(), "x:1", tests, references, tmp_path / "out")


def test_without_a_terminal_the_display_is_plain_lines(tmp_path, capsys):
    with ChainDisplay([Step("Boil", 60.0), Step("Serve", 5.0)], tmp_path / "log") as display:
        with display.step("Boil") as step:
            step.detail = "three minutes"
        with pytest.raises(ValueError, match="dropped"), display.step("Serve"):
            raise ValueError("dropped")
    assert [step.state for step in display.steps] == ["done", "failed"]
    err = capsys.readouterr().err
    assert (
        err.splitlines()[0] == "[1/2] Boil, 1:04 left in all" or err.splitlines()[0] == "[1/2] Boil, 1:05 left in all"
    )
    assert "three minutes" in err
    assert "\x1b" not in err


def test_on_a_terminal_messages_become_the_running_steps_line(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    import sys

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with ChainDisplay([Step("Boil", 60.0)], tmp_path / "logs" / "log") as display, display.step("Boil"):
        print("bubbles [1]", file=sys.stderr)
        assert display.steps[0].detail == "bubbles [1]"
        assert not sys.stderr.isatty()
    assert sys.stderr is screen
    assert "bubbles [1]" in screen.getvalue()
    assert "✓" in screen.getvalue()
    assert (tmp_path / "logs" / "log").read_text() == "bubbles [1]\n"


def test_listener_hands_on_whole_lines_only():
    heard: list[str] = []
    listener = Listener(heard.append)
    for piece in ("one ", "line\n", "\n", "two\nthr", "ee"):
        listener.write(piece)
    assert heard == ["one line", "two"]
