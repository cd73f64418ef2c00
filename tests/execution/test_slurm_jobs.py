"""Jobs for Slurm without one: their scripts run under bash, and what is submitted goes to stand-ins of its commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nnunet_box.cli import app as application
from nnunet_box.errors import NnboxError, UsageError
from nnunet_box.execution import run_task as run_task_module
from nnunet_box.execution import slurm
from nnunet_box.execution.graph import Task
from nnunet_box.execution.records import Record, describe_failure, read_record, states, write_record
from nnunet_box.execution.slurm_script import SLURM, SlurmOption, job_script, parse_option
from nnunet_box.files import write_json
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace

SBATCH = """#!/bin/sh
n=$(($(cat {0}/count 2>/dev/null || echo 100) + 1))
[ ! -e {0}/refuse ] || {{ echo "sbatch: error: $(cat {0}/refuse)" >&2; exit 1; }}
echo $n > {0}/count
printf '%s\\n' "$@" > {0}/$n.argv
cat > {0}/$n.sh
echo "$n PENDING Dependency" | tr ' ' '|' >> {0}/queue
echo "$n;home"
"""
SQUEUE = """#!/bin/sh
[ -z "$SQUEUE_STATES" ] || exit 9
cat {0}/queue
"""
NOTE = """#!/bin/sh
echo "${{0##*/}} $*" >> {0}/calls
"""


@dataclass(frozen=True)
class Fake:
    """A Slurm that only takes notes."""

    folder: Path

    def submitted(self) -> list[str]:
        """Task names in the order of submission."""
        files = sorted(self.folder.glob("[0-9]*.sh"), key=lambda file: int(file.stem))
        return [_directive(file.read_text(), "--job-name").removeprefix("nnbox-toy-") for file in files]

    def dependency(self, job: int) -> str | None:
        words = (self.folder / f"{job}.argv").read_text().split()
        assert words[0] == "--parsable"
        return words[1].removeprefix("--dependency=afterok:") if len(words) > 1 else None

    def says(self, *jobs: str) -> None:
        (self.folder / "queue").write_text("".join(f"{job}\n" for job in jobs))

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


def _directive(script: str, name: str) -> str:
    found = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    return next(text.partition("=")[2] for text in found if text.startswith(f"{name}="))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "queue").touch()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": NOTE, "scontrol": NOTE}.items():
        program = folder / name
        program.write_text(text.format(shlex.quote(str(folder))))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    return Fake(folder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "it's 100% a workspace", "toy")


TRAINING = TrainingSettings("2d", 0, epochs=1)


def toy_graph(done: set[str], key: str = "k", device: str = "auto") -> list[Task]:
    """preprocess, two trainings, select; what is in ``done`` is done."""

    def task(name: str, kind: str, needs: tuple[str, ...]) -> Task:
        settings = replace(TRAINING, fold=int(name[-1]), device=device) if kind == "train" else None
        return Task(
            name,
            kind,  # type: ignore[arg-type]
            (kind, "toy", "--workspace", "w"),
            needs,
            (),
            (Path("nowhere") / name / "weights",),
            key,
            lambda: name in done,
            lambda: pytest.fail("only jobs run tasks"),
            settings,
        )

    trainings = ("train-2d-0", "train-2d-1")
    return [
        task("preprocess", "preprocess", ()),
        *(task(name, "train", ("preprocess",)) for name in trainings),
        task("select", "select", trainings),
    ]


def submit(workspace: Workspace, tasks: list[Task]) -> dict[str, str]:
    return slurm.submit(workspace, slurm.steps(workspace, tasks, slurm.queue()), [])


def test_each_job_waits_for_those_its_task_needs(fake: Fake, workspace: Workspace) -> None:
    tasks = toy_graph(set())
    sent = submit(workspace, tasks)
    assert sent == {"preprocess": "101", "train-2d-0": "102", "train-2d-1": "103", "select": "104"}
    assert fake.submitted() == [task.name for task in tasks]
    assert [fake.dependency(job) for job in (101, 102, 103, 104)] == [None, "101", "101", "102:103"]
    record = read_record(workspace, "select")
    assert record == Record(task="select", key="k", state="submitted", scheduler="slurm", job="104")


def test_what_is_done_is_neither_submitted_nor_waited_for(fake: Fake, workspace: Workspace) -> None:
    submit(workspace, toy_graph({"preprocess", "train-2d-0"}))
    assert fake.submitted() == ["train-2d-1", "select"]
    assert [fake.dependency(job) for job in (101, 102)] == [None, "101"]


def test_a_second_submission_submits_nothing(fake: Fake, workspace: Workspace) -> None:
    tasks = toy_graph(set())
    submit(workspace, tasks)
    assert submit(workspace, tasks) == {}
    fake.says("101|RUNNING|None", "102|PENDING|Dependency", "103|PENDING|Dependency", "104|PENDING|Dependency")
    assert submit(workspace, tasks) == {}
    fake.says("102|RUNNING|None", "103|PENDING|Resources", "104|PENDING|Dependency")
    assert submit(workspace, toy_graph({"preprocess"})) == {}
    assert fake.calls() == []


def test_a_job_that_vanished_or_failed_is_submitted_again_with_those_that_waited_for_it(
    fake: Fake, workspace: Workspace
) -> None:
    submit(workspace, toy_graph(set()))
    # One training runs, the other's job has gone; the last one still waits for both, in vain.
    fake.says("102|RUNNING|None", "104|PENDING|Dependency")
    after = toy_graph({"preprocess"})
    assert submit(workspace, after) == {"train-2d-1": "105", "select": "106"}
    assert fake.dependency(105) is None and fake.dependency(106) == "102:105"
    assert fake.calls() == ["scancel --state=PENDING 104"]
    # It failed: its record says so, while its job still winds up. Slurm has seen that the last one waits in vain.
    failed = read_record(workspace, "train-2d-0")
    assert failed is not None
    write_record(workspace, failed.model_copy(update={"state": "failed", "exit_code": 1}))
    fake.says("102|COMPLETING|None", "105|PENDING|Priority", "106|PENDING|DependencyNeverSatisfied")
    assert submit(workspace, after) == {"train-2d-0": "107", "select": "108"}
    assert fake.dependency(108) == "107:105"
    assert fake.calls() == ["scancel --state=PENDING 104"], "Slurm itself ends what waits in vain"


def test_jobs_with_other_settings_are_not_joined(fake: Fake, workspace: Workspace) -> None:
    submit(workspace, toy_graph(set()))
    fake.says("102|RUNNING|None", "104|PENDING|Dependency")
    with pytest.raises(UsageError, match="scancel 102 104"):
        submit(workspace, toy_graph(set(), key="other"))
    assert len(fake.submitted()) == 4
    fake.says()
    assert len(submit(workspace, toy_graph(set(), key="other"))) == 4


def test_a_refusal_names_the_task_and_the_rest_can_follow(fake: Fake, workspace: Workspace) -> None:
    (fake.folder / "refuse").write_text("invalid partition specified: gpu")
    with pytest.raises(NnboxError, match="preprocess: .*invalid partition specified: gpu.*0 tasks were submitted"):
        submit(workspace, toy_graph(set()))
    assert read_record(workspace, "preprocess") is None
    (fake.folder / "refuse").unlink()
    assert len(submit(workspace, toy_graph(set()))) == 4


def test_states_and_remarks_are_what_slurm_says(fake: Fake, workspace: Workspace) -> None:
    tasks = toy_graph({"preprocess"})
    submit(workspace, tasks)
    fake.says("101|RUNNING|None", "103|PENDING|Dependency")
    known = slurm.queue()
    found = states(workspace, tasks, {SLURM: lambda: slurm.job_states(known)})
    assert found == {"preprocess": "done", "train-2d-0": "running", "train-2d-1": "waiting", "select": "submitted"}
    told = slurm.remarks(workspace, tasks, found, known)
    assert told["select"] == "Dependency" and set(told) == {"select", "train-2d-1"}
    assert "job 102 is gone and has not run" in told["train-2d-1"]


def test_without_slurm_the_records_are_believed(
    fake: Fake, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = toy_graph(set())
    submit(workspace, tasks)
    (fake.folder / "squeue").unlink()
    monkeypatch.setenv("PATH", str(fake.folder))
    known = slurm.known_jobs(workspace, tasks)
    assert slurm.job_states(known) == dict.fromkeys(("101", "102", "103", "104"), "submitted")
    assert "squeue was not found" in capsys.readouterr().err
    with pytest.raises(NnboxError, match="login node"):
        slurm.queue()


def test_gpus_are_for_trainings_that_may_use_them(workspace: Workspace) -> None:
    for device, wanted in (("auto", True), ("cuda", True), ("cpu", False)):
        scripts = {task.name: job_script(workspace, task, []) for task in toy_graph(set(), device=device)}
        assert [name for name, script in scripts.items() if "gres=gpu:1" in script] == [
            name for name in scripts if wanted and name.startswith("train")
        ]


def test_a_persons_options_come_last_and_for_their_kind(workspace: Workspace) -> None:
    options = [parse_option(text) for text in ("--time=8:00:00", "train:--partition=gpu", "--comment=it's # 1")]
    assert options[1] == SlurmOption("train", "--partition=gpu")
    tasks = {task.name: task for task in toy_graph(set())}
    lines = job_script(workspace, tasks["train-2d-0"], options).splitlines()
    given = [shlex.split(line)[1] for line in lines if line.startswith("#SBATCH")]
    assert given[-3:] == ["--time=8:00:00", "--partition=gpu", "--comment=it's # 1"]
    assert "--partition" not in job_script(workspace, tasks["select"], options)


@pytest.mark.parametrize(
    "text",
    [
        "partition=gpu",
        "-p gpu",
        "--partition gpu",
        "--comment=a\nb",
        "--comment=a\\b",
        "--x\n#SBATCH --y",
        "nobody:--mem=1G",
        "",
        "--",
    ]
    + ["--array=0-3", "--dependency=afterok:1", "train:--dependency=singleton"],
)
def test_other_options_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--slurm-option"):
        parse_option(text)


@pytest.mark.parametrize("name", ["a\n#SBATCH --uid=0", "a\\b"])
def test_a_folder_that_no_script_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="without line breaks"):
        job_script(Workspace(tmp_path / name, "toy"), toy_graph(set())[0], [])


LISTENS = """
import signal, sys, time
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit({}))
print("on", flush=True)
while True:
    time.sleep(0.01)
"""


def start(
    workspace: Workspace, program: str, monkeypatch: pytest.MonkeyPatch, restarts: int = 0
) -> subprocess.Popen[str]:
    """The script of a task as Slurm would start it, with ``program`` in the place of nnbox."""
    workspace.task("train-2d-0").mkdir(parents=True, exist_ok=True)  # As submit() does.
    file = workspace.root / "stand-in.py"
    file.write_text(program)
    monkeypatch.setattr(run_task_module, "PROGRAM", [sys.executable, str(file)])
    script = job_script(workspace, toy_graph(set())[1], [])
    environment = {**os.environ, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts), "SLURM_CPUS_PER_TASK": "3"}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.mark.parametrize(
    ("program", "restarts", "code", "again"),
    [
        ("", 0, 0, False),
        ("raise SystemExit(3)", 0, 3, False),
        ("raise SystemExit(75)", 9, 75, True),
        ("import os; os.kill(os.getpid(), 9)", 0, 137, True),
        ("import os; os.kill(os.getpid(), 9)", 2, 137, False),
        ("import os; os.kill(os.getpid(), 10)", 9, 138, True),
    ],
)
def test_a_script_asks_to_be_begun_again_where_that_helps(
    fake: Fake,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    restarts: int,
    code: int,
    again: bool,
) -> None:
    process = start(workspace, program, monkeypatch, restarts)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert fake.calls() == (["scontrol requeue 17"] if again else [])


def test_a_job_that_is_told_before_it_can_listen_is_not_begun_again_for_ever(
    fake: Fake, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, well = "import os; os.kill(os.getpid(), 10)", "raise SystemExit(75)"
    for runs, (program, begun_again) in enumerate(
        [(early, 1), (early, 2), (well, 3), (early, 4), (early, 5), (early, 5)]
    ):
        out, _ = start(workspace, program, monkeypatch, restarts=runs).communicate(timeout=60)
        assert len(fake.calls()) == begun_again, runs
        assert ("the limit leaves no room" in out) == (runs == 5)


@pytest.mark.parametrize("gets_further", [False, True])
def test_a_job_that_ends_for_its_limit_and_gets_nowhere_fails(tmp_path: Path, gets_further: bool) -> None:
    workspace, weights = Workspace(tmp_path, "toy"), tmp_path / "fold_0" / "weights.safetensors"
    state = weights.parent / "checkpoint" / "state.json"
    state.parent.mkdir(parents=True)
    write_json(state, {"progress": {"epoch_seconds": 0}, "files": {"network.safetensors": "0"}})
    program = tmp_path / "stand-in.py"
    program.write_text(
        f"import json, pathlib\nstate = pathlib.Path({str(state)!r})\nfacts = json.loads(state.read_text())\n"
        f"facts['progress']['epoch_seconds'] += 1\nfacts['files']['network.safetensors'] += '1' * {gets_further}\n"
        "state.write_text(json.dumps(facts))\nraise SystemExit(75)"
    )

    def run(job: str) -> tuple[int, Record]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_task_module, "PROGRAM", [sys.executable, str(program)])
            code = run_task_module.run_task(workspace, "t", "k", [], job=("slurm", job), outputs=[weights])
        record = read_record(workspace, "t")
        assert record is not None
        return code, record

    codes = [run("17")[0] for _ in range(3)]
    if gets_further:
        assert codes == [75, 75, 75] and run("17")[1].in_vain == 0
        return
    assert codes == [75, 75, 1]
    record = read_record(workspace, "t")
    assert record is not None and (record.state, record.exit_code) == ("failed", 1)
    told = describe_failure(workspace, "t")
    assert "the limit leaves no room" in told and "--slurm-option --time=" in told
    assert run("18") == (75, read_record(workspace, "t")), "submitted again, with another limit maybe"
    assert run("18")[1].in_vain == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143)])
def test_a_signal_to_the_shell_reaches_the_task_and_its_end_is_waited_for(
    fake: Fake, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    process = start(workspace, LISTENS.format(code), monkeypatch)
    try:
        assert process.stdout is not None and process.stdout.readline() == "on\n"
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert fake.calls() == (["scontrol requeue 17"] if code == 75 else [])


def test_a_task_learns_its_job_and_its_cores(fake: Fake, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['OMP_NUM_THREADS']]))"
    out, _ = start(workspace, tell, monkeypatch).communicate(timeout=60)
    argv, threads = json.loads(out)
    assert threads == "3"
    assert argv[:2] == ["run-task", "train-2d-0"] and argv[argv.index("--job") + 1] == "slurm:17"
    assert Path(argv[argv.index("--workspace") + 1]) == workspace.root.resolve(), "with its quotes and spaces"
    assert argv[argv.index("--") + 1 :] == ["train", "toy", "--workspace", "w"]


def test_the_printed_script_submits_the_same_jobs(fake: Fake, workspace: Workspace) -> None:
    tasks = toy_graph(set())
    submit(workspace, tasks)
    first = [(fake.folder / f"{job}.sh").read_text().rstrip("\n") for job in (101, 102, 103, 104)]
    (workspace.task("preprocess") / "record.json").unlink()
    fake.says("102|PENDING|Dependency")
    script = slurm.submission_script(workspace, slurm.steps(workspace, tasks, slurm.queue()), [])
    before = sorted(fake.folder.iterdir())
    assert "scancel --state=PENDING 102" in script and sorted(fake.folder.iterdir()) == before
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "preprocess: job 105;home"
    assert [(fake.folder / f"{job}.sh").read_text().rstrip("\n") for job in (105, 106, 107, 108)] == first
    assert [fake.dependency(job) for job in (105, 106, 107, 108)] == [None, "105", "105", "106:107"]


def test_a_record_names_the_job_that_runs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "toy")
    write_record(workspace, Record(task="t", key="k", state="submitted", attempts=1, scheduler="slurm", job="17"))
    assert run_task_module.run_task(workspace, "t", "k", ["--help"], job=("slurm", "18")) == 0
    record = read_record(workspace, "t")
    assert record is not None and (record.scheduler, record.job, record.attempts) == ("slurm", "18", 2)
    assert run_task_module.run_task(workspace, "t", "k", ["--help"]) == 0
    record = read_record(workspace, "t")
    assert record is not None and record.job is None, "it was run here"


def test_the_command_line_submits_and_status_tells(
    fake: Fake, acdc_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nnbox(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nnbox", *arguments, "--workspace", str(tmp_path / "w")])
        try:
            application.main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert nnbox("convert", "--challenge", "acdc", str(acdc_cohort))[0] == 0
    chain = ["train-all", "acdc", "--executor", "slurm", "--configurations", "2d", "--folds", "0,1", "--device", "cpu"]
    code, out, err = nnbox(*chain, "--dry-run")
    assert code == 0 and out.count("sbatch --parsable") == 4, err
    assert fake.submitted() == [] and not (tmp_path / "w" / "tasks").exists()
    answering = (fake.folder / "squeue").read_text()
    (fake.folder / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    code, out, err = nnbox(*chain, "--dry-run")
    assert code == 0 and out.count("sbatch --parsable") == 4 and "Unable to contact slurm controller" in err
    assert nnbox(*chain)[0] == 1 and fake.submitted() == []
    (fake.folder / "squeue").write_text(answering)
    code, out, err = nnbox(*chain, "--slurm-option", "--time=1:00:00")
    assert code == 0 and out.splitlines() == ["101 preprocess", "102 train-2d-0", "103 train-2d-1", "104 select"], err
    assert _directive((fake.folder / "103.sh").read_text(), "--time") == "1:00:00"
    code, out, err = nnbox(*chain)
    assert (code, out) == (0, "") and "0 jobs submitted, 4 were before" in err
    fake.says("101|RUNNING|None", "102|PENDING|Dependency", "103|PENDING|Dependency", "104|PENDING|Dependency")
    code, out, err = nnbox("status", "--json")
    facts = {task["task"]: (task["state"], task.get("remark")) for task in json.loads(out)["tasks"]}
    assert facts["plan"] == ("done", None) and facts["preprocess"] == ("running", None)
    assert facts["train-2d-1"] == facts["select"] == ("submitted", "Dependency")
    code, out, err = nnbox("status")
    assert code == 0 and "Slurm, Dependency: train-2d-0, train-2d-1, select" in " ".join(out.split())
    assert nnbox(*chain[:2], "--slurm-option", "--time=1")[0] == 2
    code, _, err = nnbox(*chain[:-1], "cuda:1")
    assert code == 2 and "write cuda" in err
