"""Networks: parameter counts from the literature, shapes, seeds, and what is refused."""

import subprocess
import sys
import textwrap

import pytest
import torch
from miniature import write_files
from torch import nn

from hessian_directions.errors import ModelError
from hessian_directions.models.activations import replace_activation
from hessian_directions.models.registry import build
from hessian_directions.models.resnet import PaddingShortcut


def make(name, options=None, shape=(3, 32, 32), n_outputs=10, seed=0):
    return build(name, options, input_shape=shape, n_outputs=n_outputs, seed=seed)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "shape", "n_outputs", "n_parameters"),
    [
        ("resnet", {}, (3, 32, 32), 10, 855_770),
        ("resnet", {"shortcut": "none"}, (3, 32, 32), 10, 853_018),
        # He et al. 2016, table 6: 0.27 million at depth 20 with shortcuts without parameters.
        ("resnet", {"depth": 20, "shortcut": "padding"}, (3, 32, 32), 10, 269_722),
        ("densenet", {}, (3, 32, 32), 10, 6_956_298),
        ("mlp", {"width": 100, "hidden_layers": 3}, (1,), 1, 20_501),
        ("mlp", {"width": 100, "hidden_layers": 11}, (1,), 1, 101_301),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, shape, n_outputs, n_parameters):
    assert count(make(name, options, shape, n_outputs)) == n_parameters


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"depth": 8, "width": 4}),
        ("resnet", {"depth": 8, "width": 4, "shortcut": "padding"}),
        ("resnet", {"depth": 8, "width": 4, "shortcut": "none", "activation": "softplus"}),
        ("resnet", {"depth": 8, "width": 4, "strides": [2, 2, 2]}),
        ("densenet", {"growth_rate": 4, "blocks": [1, 2], "compression": 1.0, "bottleneck": 2}),
        ("mlp", {"width": 5, "hidden_layers": 1, "activation": "tanh"}),
    ],
)
def test_digits_of_8_by_8_pixels_fit(name, options):
    model = make(name, options, shape=(1, 8, 8))
    assert model.training
    model.eval()
    outputs = model(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert outputs.shape == (3, 10)
    assert outputs.dtype == torch.float32


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, same, other = (make("resnet", {"depth": 8, "width": 2}, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(4), expected)
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.stem.weight, other.stem.weight)


def test_padding_shortcut_keeps_the_maps_in_the_middle():
    maps = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    padded = PaddingShortcut(2, 2)(maps)
    assert padded.shape == (1, 4, 2, 2)
    assert torch.equal(padded[:, 1:3], maps[:, :, ::2, ::2])
    assert not padded[:, [0, 3]].any()


def test_without_shortcuts_a_dead_block_stops_everything_and_with_them_it_does_not():
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for shortcut, passes in (("none", False), ("projection", True)):
        model = make("resnet", {"depth": 14, "width": 4, "shortcut": shortcut}, (1, 8, 8)).eval()
        block = model.stages[1][1]
        nn.init.zeros_(block.norm2.weight)
        nn.init.zeros_(block.norm2.bias)
        outputs = model(images)
        assert torch.allclose(outputs[0], outputs[1], atol=1e-6) is not passes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt", {}, "resnet, densenet, mlp, timm:<name>"),
        ("resnet", {"dept": 20}, "no option dept, it has activation, depth, shortcut, strides, wi"),
        ("resnet", {"depth": 21}, "option depth: .* not 21"),
        ("resnet", {"shortcut": "skip"}, "option shortcut: 'skip' .* projection, padding, none"),
        ("resnet", {"activation": "rleu"}, "option activation: 'rleu' .* relu"),
        ("resnet", {"depth": "deep"}, "resnet cannot be built with options"),
        ("densenet", {"blocks": [2] * 7}, "option blocks: 7 blocks"),
        ("densenet", {"compression": 0}, "option compression"),
        ("mlp", {"width": 0}, "option width"),
        ("nowhere.at_all:network", {}, "nowhere.at_all:network cannot be imported"),
        ("torch.nn:NoSuchLayer", {}, "cannot be imported"),
        ("torch.nn:ReLU", {}, r"gives \(2, 3, 32, 32\) for 2 samples, not \(2, 10\)"),
        ("math:hypot", {}, "math:hypot"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_allowed(name, options, message):
    with pytest.raises(ModelError, match=message):
        make(name, options)


def test_images_are_refused_where_vectors_come():
    with pytest.raises(ModelError, match="resnet needs images"):
        make("resnet", shape=(64,))


def test_a_function_of_the_user_is_found_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        textwrap.dedent(
            """
            import math
            from torch import nn

            def linear(input_shape, n_outputs, bias=True):
                return nn.Sequential(
                    nn.Flatten(), nn.Linear(math.prod(input_shape), n_outputs, bias=bias)
                )

            def fixed():
                return nn.Flatten()

            def broken(n_outputs):
                raise ValueError("no such luck")

            def nothing(n_outputs):
                return None
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert count(make("my_networks:linear", {"bias": False}, (1, 2, 2), 3)) == 12
    assert count(make("my_networks:fixed", {}, (1, 2, 2), 4)) == 0
    with pytest.raises(ModelError, match="unexpected keyword argument 'bais'"):
        make("my_networks:linear", {"bais": False}, (1, 2, 2), 3)
    with pytest.raises(ModelError, match="no such luck"):
        make("my_networks:broken")
    with pytest.raises(ModelError, match="returns a NoneType"):
        make("my_networks:nothing")


NET = """
import torch
from torch import nn
from .parts import Head

class Attention(nn.Module):
    def __init__(self, in_chans, num_classes, img_size, width=8, n_heads=2):
        super().__init__()
        assert img_size == 8
        self.patches = nn.Conv2d(in_chans, width, 4, 4)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.head = Head(width, num_classes)

    def forward(self, images):
        tokens = self.norm(self.patches(images).flatten(2).transpose(1, 2))
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))

class Words(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(11, 4), nn.Flatten(), nn.LazyLinear(3))

class Outer:
    @staticmethod
    def make(n_classes=99, hidden=3):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(hidden), nn.Linear(hidden, n_classes))

def fails(n_outputs):
    values = {}
    return values["no such key"]

instance = nn.ReLU()
"""


def write_package(folder, parts="from torch.nn import Linear as Head"):
    files = {"nets/__init__.py": "", "nets/parts.py": parts, "nets/own.py": NET}
    return write_files(folder, files)


@pytest.fixture
def _path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("module", ["nets.own", "nets/own.py"])
@pytest.mark.usefixtures("_path")
def test_the_user_s_own_networks_get_from_the_data_what_they_ask_for(tmp_path, module):
    folder = write_package(tmp_path)
    size = {"input_shape": (2, 8, 8), "n_outputs": 3, "seed": 0, "folder": folder}
    attention = build(f"{module}:Attention", {"n_heads": 4}, **size)
    assert attention.patches.weight.shape == (8, 2, 4, 4)
    assert attention.attention.num_heads == 4
    assert count(build(f"{module}:Outer.make", **size)) == (128 + 1) * 3 + (3 + 1) * 3
    # What the options state is not derived; a network of no arguments needs none of it.
    with pytest.raises(ModelError, match=r"gives \(2, 5\) for 2 samples, not \(2, 3\)"):
        build(f"{module}:Outer.make", {"n_classes": 5}, **size)
    words = build(f"{module}:Words", **size | {"input_shape": (6,), "input_dtype": torch.int64})
    assert words[2].weight.shape == (3, 24)
    with pytest.raises(ModelError, match=r"inputs of shape \(2, 8, 8\): .*own.py, line 16\)"):
        build(f"{module}:Attention", {"in_chans": 3}, **size)


@pytest.mark.parametrize(("shape", "n_outputs"), [((1,), 2), ((), 2), ((1,), 3), ((3,), 2)])
def test_two_classes_need_two_outputs(tmp_path, shape, n_outputs):
    """Networks for the binary cross entropy have one."""
    text = "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n"
    folder = tmp_path / f"binary{len(shape)}{sum(shape)}{n_outputs}"
    folder.mkdir()
    (folder / f"{folder.name}.py").write_text(f"{text}        return x.new_zeros({(2, *shape)})\n")
    size = {"input_shape": (4,), "n_outputs": n_outputs, "seed": 0, "folder": folder}
    with pytest.raises(ModelError) as caught:
        build(f"{folder.name}.py:Net", **size)
    said = f"gives {(2, *shape)} for 2 samples, not (2, {n_outputs})"
    is_binary = n_outputs == 2 and shape != (3,)
    assert str(caught.value).endswith(
        f"{said}: two classes need two outputs" if is_binary else said
    )


@pytest.mark.usefixtures("_path")
def test_errors_in_the_user_s_code_are_one_sentence_with_file_and_line(tmp_path):
    folder = write_package(tmp_path)
    (folder / "typo.py").write_text("import torch\n\ndef net(:\n")
    (folder / "exits.py").write_text("import sys\nsys.exit('usage: exits.py DATA')\n")
    (folder / "argparse.py").write_text("net = None\n")
    for name, message in (
        ("nets.own:fails", r"options {}: KeyError: 'no such key' \(.*nets/own.py, line 30\)"),
        ("nets.own:Attenton", r"nets/own.py has no Attenton"),
        ("nets.own:instance", "is a ReLU already: name the function or class that makes it"),
        ("nets/nowhere.py:Net", r"there is no file nets/nowhere.py in .*"),
        ("typo:net", r"cannot be imported: SyntaxError: .*typo.py, line 3\)"),
        ("exits:net", r"SystemExit: usage: exits.py DATA \(.*exits.py, line 2\)"),
        ("argparse:net", r"another module argparse is imported already, .*: rename .*argparse.py"),
        ("nets.own:", "is not of the form package.module:name"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            build(name, input_shape=(4,), n_outputs=3, seed=0, folder=folder)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_path")
def test_two_folders_may_hold_modules_of_one_name(tmp_path):
    first = write_package(tmp_path / "a")
    second = write_package(tmp_path / "b", "from torch.nn import Identity as Head")
    size = {"input_shape": (1, 8, 8), "n_outputs": 8, "seed": 0}
    for folder, kind in ((first, nn.Linear), (second, nn.Identity), (first, nn.Linear)):
        assert isinstance(build("nets.own:Attention", folder=folder, **size).head, kind)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("timm:test_vit", (3, 48, 48), None),
        ("timm:test_vit", (1, 32, 48), None),
        ("timm:test_convnext", (1, 32, 32), None),
        ("torchvision:shufflenet_v2_x0_5", (3, 40, 32), None),
        ("torchvision:resnet18", (1, 8, 8), r"takes images of 3 channels, not .* \(1, 8, 8\)"),
        ("timm:test_vit", (3, 8, 8), r"does not take inputs of shape \(3, 8, 8\)"),
        ("timm:test_vit", (12,), "needs images"),
    ],
)
def test_classes_channels_and_size_of_a_library_s_network_come_from_the_data(name, shape, message):
    if message is None:
        assert make(name, {}, shape, 7).training
    else:
        with pytest.raises(ModelError, match=message):
            make(name, {}, shape, 7)


@pytest.mark.parametrize("name", ["resnet", "densenet", "mlp"])
def test_relu_is_replaced_in_a_copy_with_equal_weights(name):
    options = {"resnet": {"depth": 8, "width": 4}, "densenet": {"growth_rate": 4, "blocks": [1, 1]}}
    model = make(name, options.get(name), shape=(1, 8, 8)).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    deviations = []
    for sharpness in (10, 1000):
        smooth = replace_activation(
            model, nn.ReLU, lambda sharpness=sharpness: nn.Softplus(beta=sharpness)
        )
        assert not any(isinstance(module, nn.ReLU) for module in smooth.modules())
        deviations.append((smooth(images) - model(images)).abs().max().item())
    assert any(isinstance(module, nn.ReLU) for module in model.modules())
    assert deviations[1] < deviations[0] / 10
    assert deviations[1] < 0.01


def test_replacing_nothing_is_refused():
    with pytest.raises(ModelError, match="holds no Tanh module"):
        replace_activation(make("mlp", shape=(4,)), nn.Tanh, nn.ReLU)


def test_libraries_load_late_and_beside_a_torch_that_does_not_fit_without_a_warning(tmp_path):
    program = """
    import sys
    from hessian_directions.models import registry
    assert "torchvision" not in sys.modules and "timm" not in sys.modules
    assert "sklearn" not in sys.modules
    make = lambda name, **options: registry.build(
        name, options, input_shape=(3, 32, 32), n_outputs=10, seed=0
    )
    for name in ("torchvision:squeezenet1_1", "timm:test_resnet"):
        make(name)
    make("timm:test_vit", img_size=32, patch_size=8)
    folder = sys.argv[1]
    saved = make("timm:test_resnet")
    registry.vision.timm().models.save_for_hf(saved, folder)
    loaded = make(f"timm:local-dir:{folder}", pretrained=True)
    pairs = zip(saved.parameters(), loaded.parameters(), strict=True)
    assert all((a == b).all() for a, b in pairs)
    for name, options, message in (
        ("timm:resnet18x", {}, "similar are resnet18"),
        ("torchvision:resnet1", {}, "similar are resnet"),
        ("timm:test_resnet", {"widht": 1}, "widht"),
        ("timm:local-dir:/no/such/folder", {}, "cannot be built"),
    ):
        try:
            make(name, **options)
        except registry.ModelError as error:
            assert message in str(error), error
        else:
            raise AssertionError(name)
    """
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
    )


def test_a_constructor_inside_a_library_is_found_beside_a_torch_that_does_not_fit():
    """In a process of its own, in which nobody has imported the library before."""
    program = """
    from hessian_directions.models.registry import build
    options = {"patch_size": 4, "embed_dim": 8, "num_blocks": 1}
    build("timm.models.mlp_mixer:MlpMixer", options, input_shape=(1, 8, 8), n_outputs=3, seed=0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
