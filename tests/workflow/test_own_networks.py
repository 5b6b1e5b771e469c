"""Networks, weights and data of a user's own, from a file in a folder of its own to one page."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from miniature import write_files
from project import Project
from safetensors.torch import save_file
from torch import nn

pytestmark = pytest.mark.workflow

NETS = '''
import torch
from torch import nn


class Attention(nn.Module):
    """LayerNorm and attention over eight tokens of one number each; no convolution."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.norm(self.embed(x.unsqueeze(-1)))
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def flat(input_shape, n_outputs, width):
    n = torch.Size(input_shape).numel()
    layers = nn.Linear(n, width), nn.GELU(), nn.Linear(width, n_outputs)
    return nn.Sequential(nn.Flatten(), *layers)


def shared(input_shape, n_outputs, width):
    """A layer used twice, a frozen one, and a parameter without use."""
    net, inner = flat(input_shape, width, width), nn.Linear(width, width)
    net[1].requires_grad_(False)
    net.extend([inner, nn.GELU(), inner, nn.Linear(width, n_outputs)])
    net.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    return net


def points(n, seed=0):
    """Training and test data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * n, 8, generator=generator)
    y = (x.sum(1) > 0).long()
    split = torch.utils.data.TensorDataset
    return split(x[:n], y[:n]), split(x[n:], y[n:])
'''

# One network for each way to name a model, its weights and its data. The first has the standard set.
CONFIGURATION = """
profile: own
data:
  arrays: {kind: arrays, path: arrays.npz}
  images: {kind: image_folder, path: images/, size: 32, normalisation: {mean: 0.5, deviation: 0.25}}
  points: {kind: python, name: "nets.py:points", options: {n: 30}}
  fake: {kind: torchvision, name: FakeData, options: {size: 24, image_size: [3, 16, 16], num_classes: 2}, n_test: 8}
networks:
  state_dict: {data: arrays, model: {name: "nets.py:Attention"}, checkpoint: {file: attention.pt}}
  dictionary: {data: points, model: {name: "nets:flat", options: {width: 3}}, checkpoint: {file: run.ckpt, key: a.b}}
  safetensors: {data: points, model: {name: "nets:flat", options: {width: 3}}, checkpoint: {file: w.safetensors}}
  torchvision: {data: images, model: {name: "torchvision:shufflenet_v2_x0_5"}, training: {epochs: 1}}
  timm: {data: images, model: {name: "timm:test_vit"}, training: {epochs: 1}}
  here: {data: fake, model: {name: "nets:shared", options: {width: 2}}, training: {epochs: 2, batch_size: 8}}
analyses: {eigenpairs: {tolerance: 0.1, max_products: 60}, visibility: {n_planes: 5}, slices: {n_points: 5}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has, in a folder that is not the project's."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    spaces: dict[str, type[nn.Module]] = {}
    exec(NETS, spaces)
    torch.manual_seed(0)
    torch.save(spaces["Attention"](3).state_dict(), tmp_path / "attention.pt")
    weights = spaces["flat"]((8,), 2, 3).state_dict()
    wrapped = {f"module.{key}": tensor for key, tensor in weights.items()}
    torch.save({"epoch": 3, "a": {"b": wrapped}}, tmp_path / "run.ckpt")
    save_file(weights, tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "arrays.npz",
        x_train=rng.normal(size=(30, 8)).astype(np.float32),
        y_train=np.arange(30) % 3,
        x_test=rng.normal(size=(9, 8)).astype(np.float32),
        y_test=np.arange(9) % 3,
    )
    images = {
        f"images/{split}/{label}/{number}.png": rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        for split, n in (("train", 8), ("val", 2))
        for label in ("cat", "dog")
        for number in range(n)
    }
    return write_files(tmp_path, images)


def test_every_way_to_name_a_network_ends_on_the_page(bare: Project, folder: Path) -> None:
    configuration = yaml.safe_load(CONFIGURATION)
    for name, network in configuration["networks"].items():
        if name != "state_dict":
            network["analyses"] = ["scores", "eigenpairs"]
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(configuration))
    announced = bare.run(
        "python", "-m", "hessian_directions.reproduction.announcement", str(path)
    ).stdout
    assert announced.startswith("Profile own: 6 networks (3 trained here)")
    assert "Predicted" in announced
    done = bare.snakemake("page", configfile=str(path), config="source=auto")
    assert done.stderr.splitlines()[-1] == "The report: results/computed/own/report.html"
    page = (bare.path / "results/computed/own/report.html").read_text()
    for name in configuration["networks"]:
        assert f'<article class="page" id="{name}"' in page
    assert "Where the curvature lives" in page
    assert "All " in page
    assert "disagree" not in page
    # An edit of the user's module is seen.
    with (folder / "nets.py").open("a") as file:
        file.write("\n# An edit.\n")
    planned = bare.planned_jobs("page", configfile=str(path), config="source=auto")
    assert planned["import_checkpoint"] == 3
    assert planned["train_network"] == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"checkpoint": {"file": "none.pt"}}, "none.pt"),
        ({"checkpoint": {"file": "w.safetensors"}}, "lacks the key"),
        ({"model": {"name": "nets.py:Attantion"}}, "Attantion"),
        ({"model": {"name": "nets.py:Attention", "options": {"widht": 2}}}, "widht"),
        ({"data": "images"}, "does not take inputs of shape (3, 32, 32)"),
    ],
)
def test_a_mistake_is_one_sentence(
    bare: Project, folder: Path, change: dict[str, object], sentence: str
) -> None:
    configuration = yaml.safe_load(CONFIGURATION)
    configuration["networks"] = {"mine": configuration["networks"]["state_dict"] | change}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(configuration | {"profile": "mine"}))
    done = bare.run(
        "snakemake", "--configfile", str(path), "--cores", "1", "--", "page", check=False
    )
    assert done.returncode != 0
    said = [
        line for line in done.stdout.splitlines() + done.stderr.splitlines() if sentence in line
    ]
    assert any("import_checkpoint" in line or "mine.yaml" in line for line in said), done.stderr
