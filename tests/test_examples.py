"""The examples run, in small."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# With a torchvision that also loads beside a torch which its compiled library does not match.
START = """
import runpy, sys
from hessian_directions.models import vision
vision.torchvision()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.long
def test_first_look(tmp_path: Path) -> None:
    small = [
        "--network",
        "shufflenet_v2_x0_5",
        "--epochs",
        "1",
        "--samples",
        "12",
        "--pixels",
        "32",
        "--points",
        "3",
    ]
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            START,
            ROOT / "examples/first_look.py",
            *small,
            "--output",
            "look.html",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "352,042 parameters, 12 samples" in run.stderr
    assert "agree." in (tmp_path / "look.html").read_text()
