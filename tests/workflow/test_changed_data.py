"""Data and modules of a user's own that change: between two runs, and between the jobs of one."""

import os
from pathlib import Path

import pytest
import yaml
from miniature import plain_images, write_files
from PIL import Image
from project import Project

pytestmark = pytest.mark.workflow

MODULES = {
    "netze/mein.py": "from .teile import layers\n\n\ndef net(n_outputs):\n    return layers(n_outputs)\n",
    "netze/teile.py": """
from common.util import nn


def layers(n):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n))
""",
    "common/util.py": "from torch import nn\n",
    "netze/__init__.py": "",
    "daten.py": """
import numpy as np


def unseeded():
    order = np.random.permutation(40)
    x, y = np.arange(80, dtype=np.float32).reshape(40, 2)[order], (np.arange(40) % 2)[order]
    return (x[:30], y[:30]), (x[30:], y[30:])
""",
}
CONFIGURATION = """
profile: mine
data:
  bilder: {kind: image_folder, path: bilder/, classes: klassen.txt}
  zufall: {kind: python, name: "daten.py:unseeded"}
networks:
  mein:
    data: bilder
    model: {name: "netze/mein.py:net"}
    training: {epochs: 1}
    analyses: [scores]
"""
SCORES = "results/computed/mine/networks/mein/scores.nc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path / "bilder", plain_images(4, a=40, b=200))
    return write_files(tmp_path, MODULES | {"klassen.txt": "a\nb\n", "mine.yaml": CONFIGURATION})


def test_what_changed_is_computed_again(bare: Project, folder: Path) -> None:
    def planned() -> dict[str, int]:
        return bare.planned_jobs(
            SCORES, configfile=str(folder / "mine.yaml"), config="source=compute"
        )

    done = bare.snakemake(SCORES, configfile=str(folder / "mine.yaml"), config="source=compute")
    assert "The report" not in done.stderr
    assert planned() == {}
    again = {"train_network": 1, "scores": 1}
    image = folder / "bilder/train/a/5.png"
    Image.new("RGB", (8, 8), (60, 60, 60)).save(image)
    assert planned() == again
    image.unlink()
    assert planned() == {}
    for name in ("netze/teile.py", "common/util.py", "klassen.txt"):
        text, date = (folder / name).read_text(), (folder / name).stat().st_mtime_ns
        (folder / name).write_text(text + "\n")
        assert planned() == again, name
        (folder / name).write_text(text)
        os.utime(folder / name, ns=(date, date))


def test_data_without_a_seed_end_the_run(bare: Project, folder: Path) -> None:
    configuration = yaml.safe_load(CONFIGURATION)
    configuration["networks"]["mein"]["data"] = "zufall"
    path = folder / "random.yaml"
    path.write_text(yaml.safe_dump(configuration | {"profile": "random"}))
    scores = SCORES.replace("mine", "random")
    done = bare.snakemake(scores, configfile=str(path), config="source=compute", check=False)
    assert done.returncode != 0
    assert "data.zufall is another one in every job: give what is random in it a seed" in (
        done.stdout + done.stderr
    )
    assert not (bare.path / scores).exists()
