"""The order of a day on a GPU, with commands that need none."""

import os
import subprocess
import sys
from pathlib import Path

from project import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import gpu_day


def step(name: str, script: str) -> gpu_day.Step:
    return gpu_day.Step(name, ["sh", "-c", script])


def test_a_step_that_is_ended_goes_on(tmp_path: Path) -> None:
    """The first time it would take for ever; its child is ended with it."""
    child = tmp_path / "child"
    long = f"test -e {child} && exit 0; sh -c 'echo $$ > {child}; exec sleep 1000'"
    after = step("after", f"touch {tmp_path / 'after'}")
    assert gpu_day.work([step("long", long), after], tmp_path / "notes", 120, at_once=1)
    assert (tmp_path / "after").exists()
    assert not alive(int(child.read_text()))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path: Path) -> None:
    done, gone = tmp_path / "done", tmp_path / "gone"
    todo = [step("fails", f"test -e {gone}"), step("works", f"echo once >> {done}")]
    assert not gpu_day.work(todo, tmp_path / "notes", 120)
    gone.touch()
    assert gpu_day.work(todo, tmp_path / "notes", 120)
    assert done.read_text() == "once\n"


def test_a_program_that_is_not_there_fails(tmp_path: Path) -> None:
    missing = gpu_day.Step("missing", [str(tmp_path / "nothing")])
    assert not gpu_day.work([missing], tmp_path / "notes", 120)


def test_no_step_begins_when_the_time_is_over(tmp_path: Path) -> None:
    assert not gpu_day.work([step("any", "exit 0")], tmp_path / "notes", 0)
    assert not list((tmp_path / "notes").iterdir())


def test_steps_in_order_of_value_run_files_that_exist() -> None:
    steps = gpu_day.steps()
    assert [one.name for one in steps] == [
        *("check", "training", "benchmarks"),
        *("densenet121", "paper"),
    ]
    for one in steps:
        for word in one.command[1:]:
            if word.endswith((".py", ".yaml")):
                assert (ROOT / word).is_file(), word


def test_without_a_gpu_one_sentence() -> None:
    command = [sys.executable, "benchmarks/gpu_day.py"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "gpu_day: this machine has no GPU that PyTorch can use"
