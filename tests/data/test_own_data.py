"""Data of the user's own: arrays, torchvision's sets, functions, folders; what is refused and how."""

import inspect
import re
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_directions.data.dataset import Normalisation
from hessian_directions.data.registry import KINDS, SURROUNDINGS, load
from hessian_directions.data.source import Choice
from hessian_directions.errors import HessianDirectionsError
from hessian_directions.learning.training import evaluate
from hessian_directions.models import vision
from hessian_directions.models.registry import build
from hessian_directions.objectives.objective import Objective

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4
FLOATS = RANDOM.normal(size=(40, 3, 6, 5))


def refused(settings, tmp_path, message):
    with pytest.raises(HessianDirectionsError, match=message) as caught:
        load(settings, tmp_path / "cache", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [*KINDS.values(), Choice, build])
def test_every_key_is_described(function):
    described = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]
    keys = re.findall(r"^    \**(\w+): \S", described, re.M)
    surroundings = SURROUNDINGS if function in KINDS.values() else ()
    parameters = inspect.signature(function).parameters
    assert keys == [key for key in parameters if key not in surroundings]


# Arrays


def arrays(tmp_path, content, **more):
    np.savez(tmp_path / "d.npz", **content)
    return {"kind": "arrays", "path": "d.npz"} | more


def halves(inputs, targets, x="x_{}", y="y_{}"):
    return {
        name.format(split): values[part]
        for name, values in ((x, inputs), (y, targets))
        for split, part in (("train", slice(None, 24)), ("test", slice(24, None)))
    }


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("X_{}", "Y_{}")])
@pytest.mark.parametrize("form", ["npz", "folder", "two files"])
def test_arrays_are_found_by_usual_names_and_the_form_does_not_matter(tmp_path, names, form):
    content = halves(PIXELS, LABELS[:, None], *names)
    settings = arrays(tmp_path, content)
    if form == "folder":
        (tmp_path / "d").mkdir()
        for name, values in content.items():
            np.save(tmp_path / "d" / f"{name}.npy", values)
        settings["path"] = "d"
    elif form == "two files":
        np.savez(tmp_path / "a.npz", images=PIXELS[:24], labels=LABELS[:24])
        np.savez(tmp_path / "b.npz", x=PIXELS[24:], y=LABELS[24:])
        settings |= {"path": "a.npz", "test_path": "b.npz"}
    data = load(settings, tmp_path / "cache", tmp_path)
    expected = Normalisation.of(PIXELS[:24])
    assert torch.equal(data.train.inputs, expected(PIXELS[:24]))
    assert torch.equal(data.test.inputs, expected(PIXELS[24:]))
    assert data.test.targets.tolist() == LABELS[24:].tolist()
    reference = load(arrays(tmp_path, halves(PIXELS, LABELS)), tmp_path, tmp_path)
    assert data.identity == reference.identity
    assert data.n_classes == 4


@pytest.mark.parametrize(
    ("inputs", "more", "shape", "dtype"),
    [
        (PIXELS.transpose(0, 3, 1, 2), {}, (3, 6, 5), torch.float32),
        (PIXELS.transpose(0, 3, 1, 2).astype(np.int64), {}, (3, 6, 5), torch.float32),
        (PIXELS[..., 0], {}, (1, 6, 5), torch.float32),
        (FLOATS, {}, (3, 6, 5), torch.float32),
        (FLOATS.transpose(0, 2, 3, 1), {}, (3, 6, 5), torch.float32),
        (FLOATS.transpose(0, 2, 3, 1), {"channels": "first"}, (6, 5, 3), torch.float32),
        (FLOATS[:, 0], {}, (6, 5), torch.float32),
        (FLOATS[:, 0, 0].astype(np.float16), {}, (5,), torch.float32),
        (FLOATS[:, 0, 0, 0], {}, (1,), torch.float32),
        (PIXELS[:, 0, 0], {}, (3,), torch.float32),
        (PIXELS[:, 0, :, 0].astype(np.int32), {}, (5,), torch.int64),
        (PIXELS[:, 0, :, 0], {"tokens": True}, (5,), torch.int64),
        (PIXELS[:, 0, :, 0].astype(np.int32), {"tokens": False}, (5,), torch.float32),
        (PIXELS[:, 0, :, 0] > 9, {}, (5,), torch.float32),
    ],
)
def test_inputs_of_any_shape(tmp_path, inputs, more, shape, dtype):
    data = load(arrays(tmp_path, halves(inputs, LABELS), **more), tmp_path, tmp_path)
    assert data.input_shape == shape
    assert data.train.inputs.dtype == data.test.inputs.dtype == dtype
    plain = torch.from_numpy(inputs.reshape(40, -1).astype(np.float32)).sort(1).values
    if dtype == torch.int64 or inputs.dtype.kind == "f" or inputs.ndim == 2:
        both = torch.cat([data.train.inputs, data.test.inputs]).float().flatten(1).sort(1).values
        assert torch.equal(both, plain)


@pytest.mark.parametrize(
    ("inputs", "setting", "mean", "deviation"),
    [
        (PIXELS, {"mean": [0.4, 0.5, 0.6], "deviation": 0.2}, [102, 127.5, 153], [51] * 3),
        (PIXELS, {"mean": [100, 0.5, 3], "deviation": [1, 0.2, 7]}, [100, 0.5, 3], [1, 0.2, 7]),
        (PIXELS, "none", [0] * 3, [255] * 3),
        (FLOATS, {"mean": 0.4, "deviation": [0.2, 0.3, 2]}, [0.4] * 3, [0.2, 0.3, 2]),
        (FLOATS, "train", FLOATS[:24].mean((0, 2, 3)), FLOATS[:24].std((0, 2, 3))),
        (FLOATS[:, 0, 0] * [1, 1, 1, 1, 0], "train", None, None),
        (FLOATS, "none", None, None),
    ],
)
def test_normalisation_in_units_of_255_in_fractions_and_in_own_units(
    tmp_path, inputs, setting, mean, deviation
):
    data = load(arrays(tmp_path, halves(inputs, LABELS), normalisation=setting), tmp_path, tmp_path)
    found = data.identity["normalisation"]
    if mean is not None:
        assert found["mean"] == pytest.approx(mean)
        assert found["deviation"] == pytest.approx(deviation)
    elif setting == "none":
        assert found is None
        assert torch.equal(data.train.inputs, torch.from_numpy(FLOATS[:24]).float())
    else:  # the last feature is constant: it becomes 0
        features = data.train.inputs.double()
        assert features.mean(0).abs().max() < 1e-6
        assert features.std(0, correction=0).numpy() == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)


@pytest.mark.parametrize("targets", [FLOATS[:, 0, 0, 0], FLOATS[:, 0, 0, :2].astype(np.float32)])
def test_targets_of_a_floating_point_type_are_numbers_to_predict(tmp_path, targets):
    data = load(arrays(tmp_path, halves(FLOATS, targets), n_train=10), tmp_path, tmp_path)
    assert data.n_classes is None
    assert data.n_outputs == data.train.targets.shape[1] == targets[0].size
    assert data.train.targets.dtype == torch.float32
    assert data.train.indices.tolist() == list(range(10))
    split = arrays(tmp_path, {"x": FLOATS, "y": targets}, test_share=0.25)
    assert len(load(split, tmp_path, tmp_path).test) == 10


def test_without_a_test_part_a_stratified_split_or_the_training_samples_twice(tmp_path):
    settings = arrays(tmp_path, {"images": PIXELS, "labels": LABELS})
    choices = (
        {"n_test": 8},
        {"test_share": 0.2},
        {"n_test": 8, "seed": 1},
        {"n_test": 0, "n_train": 12},
    )
    by_count, by_share, other, twice = (load(settings | one, tmp_path, tmp_path) for one in choices)
    assert by_count.identity == by_share.identity
    assert by_count.identity["split_seed"] == 0
    assert by_count.test.targets.bincount().tolist() == [2] * 4
    indices = torch.cat([by_count.train.indices, by_count.test.indices]).sort().values
    assert indices.equal(torch.arange(40))
    assert not torch.equal(by_count.test.indices, other.test.indices)
    assert torch.equal(twice.train.inputs, twice.test.inputs)
    assert len(twice.test) == 12
    assert twice.identity["note"] == "the training samples double as test samples"
    few = load(settings | {"n_test": 8, "n_train": 8}, tmp_path, tmp_path)
    assert torch.equal(few.train.indices, by_count.train.balanced(8).indices)


def test_classes_without_samples_are_allowed_where_their_number_is_stated(tmp_path):
    content = halves(PIXELS, np.where(LABELS == 3, 300, LABELS))
    refused(arrays(tmp_path, content), tmp_path, r"d.npz: class 3 of 0 … 300 has no train sample")
    data = load(arrays(tmp_path, content, n_classes=1000), tmp_path, tmp_path)
    assert data.n_outputs == 1000
    assert data.train.targets.max() == 300
    # 300 and 44 are one uint8.
    other = halves(PIXELS, np.where(LABELS == 3, 44, LABELS))
    other = load(arrays(tmp_path, other, n_classes=1000), tmp_path, tmp_path)
    assert other.identity["train_sha256"] != data.identity["train_sha256"]


def spoiled(values, place, value):
    values = values.copy()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("inputs", "targets", "more", "message"),
    [
        (
            PIXELS,
            LABELS + 1,
            {},
            r"d.npz: class 0 of 0 … 4 has no train sample: classes are numbered from 0; .*data.n_classes",
        ),
        (PIXELS, LABELS - 1, {}, r"d.npz: y_train: class -1 of sample 0 is negative"),
        (PIXELS, LABELS, {"n_classes": 3}, r"target 3 is outside the 3 classes \(data.n_classes\)"),
        (PIXELS, LABELS, {"normalisation": {"mean": [0, 0], "deviation": 1}}, "need 3 numbers"),
        (PIXELS, LABELS, {"n_train": 10}, r"data.n_train: 10 samples cannot be balanced over 4"),
        (PIXELS, LABELS, {"n_test": 80}, r"data.n_test: 80 balanced samples need 20 of each"),
        (PIXELS, LABELS, {"test_share": 0.1}, r"data.test_share: .*d.npz has a test part"),
        (PIXELS, LABELS, {"names": {"x": "a"}}, r"data.names has no key x, it has x_test, x_train"),
        (PIXELS, LABELS, {"names": {"x_train": "a"}}, r"no array a \(data.names.x_train\), it h"),
        (PIXELS, LABELS * 0, {}, "holds one class alone"),
        (PIXELS.astype(str), LABELS, {}, "x_train has type <U"),
        (PIXELS.astype(object), LABELS, {}, "array x_train cannot be read: Object arrays cannot"),
        (PIXELS[:0], LABELS[:0], {}, "y_train: there are no samples"),
        (PIXELS[:30], LABELS, {}, "d.npz: there are 6 samples in x_test, 16 in y_test"),
        (spoiled(FLOATS, (5, 1), np.nan), LABELS, {}, r"1 samples, first of number 5, are NaN"),
        (FLOATS, spoiled(FLOATS[:, 0, 0, 0], 30, np.inf), {}, "y_test are NaN .* of sample 6"),
        (FLOATS, FLOATS[:, 0, 0, 0], {"n_classes": 3}, "n_classes: the targets .* real numbers"),
        (PIXELS[:, 0, 0].astype(int), LABELS, {"normalisation": "train"}, "token ids are not"),
    ],
)
def test_wrong_arrays_are_refused_in_one_sentence(tmp_path, inputs, targets, more, message):
    refused(arrays(tmp_path, halves(inputs, targets), **more), tmp_path, message)


def test_missing_files_and_arrays_are_named(tmp_path):
    refused({"kind": "arrays", "path": "no.npz"}, tmp_path, "no.npz is missing: data.path is an .n")
    refused(arrays(tmp_path, {"a": LABELS}), tmp_path, "holds the arrays a: state .*names.x_train")
    refused(arrays(tmp_path, {"x": PIXELS, "y": LABELS}), tmp_path, "no test part: state either da")
    (tmp_path / "empty").mkdir()
    refused({"kind": "arrays", "path": "empty"}, tmp_path, "empty is a folder without .npy files")
    (tmp_path / "d.npz").write_text("text")
    refused({"kind": "arrays", "path": "d.npz"}, tmp_path, "d.npz is not an .npz file of arrays")


def test_token_ids_reach_a_network_that_embeds_them(tmp_path):
    tokens = PIXELS[:, 0, :, 0].astype(int)
    settings = arrays(tmp_path, {"input_ids": tokens, "label": LABELS}, n_test=8)
    data = load(settings, tmp_path, tmp_path)
    layers = torch.nn.Flatten(), torch.nn.LayerNorm(20), torch.nn.Linear(20, 4)
    model = torch.nn.Sequential(torch.nn.Embedding(256, 4), *layers)
    cross_entropy = torch.nn.functional.cross_entropy
    loss, _ = evaluate(model, cross_entropy, data.test)
    objective = Objective(model, cross_entropy, data.test.inputs, data.test.targets)
    assert float(objective.value()) == pytest.approx(loss, rel=1e-5)


# torchvision


def test_fake_data_has_no_test_part_and_only_the_chosen_images_are_kept(tmp_path, monkeypatch):
    settings = {
        "kind": "torchvision",
        "name": "FakeData",
        "options": {"size": 60, "image_size": [3, 8, 6], "num_classes": 3},
        "n_test": 12,
        "n_train": 9,
    }
    data = load(settings, tmp_path)
    assert data.input_shape == (3, 8, 6)
    assert (len(data.train), len(data.test), data.n_classes) == (9, 12, 3)
    assert data.identity == load(settings, tmp_path).identity
    assert data.identity["options"]["size"] == 60
    grey = load(settings | {"size": [4, 7], "channels": 1, "normalisation": "none"}, tmp_path)
    assert grey.input_shape == (1, 4, 7)
    assert grey.train.inputs.max() <= 1
    whole = vision.torchvision().datasets.FakeData(60, (3, 8, 6), 3)
    image = np.asarray(whole[data.train.indices[0]][0])
    mean, deviation = (np.array(data.identity["normalisation"][k]) for k in ("mean", "deviation"))
    normalised = (image - mean) / deviation
    assert data.train.inputs[0].permute(1, 2, 0).numpy() == pytest.approx(normalised, abs=1e-5)


def write_mnist(folder, n=(30, 20)):
    """Files in MNIST's own format."""
    folder.mkdir(parents=True)
    for stem, count in zip(("train", "t10k"), n):
        for kind, values in (("images-idx3", PIXELS), ("labels-idx1", np.arange(count) % 10)):
            values = np.resize(values, (count, 4, 4)) if kind[0] == "i" else values
            header = np.array([8 * 256 + values.ndim, *values.shape], ">i4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + values.astype("u1").tobytes())


@pytest.mark.parametrize("path", [None, "elsewhere"])
def test_mnist_is_read_from_its_files(tmp_path, path):
    write_mnist(tmp_path / (path or "cache") / "MNIST" / "raw")
    settings = {"kind": "torchvision", "name": "MNIST"} | ({"path": path} if path else {})
    data = load(settings, tmp_path / "cache", tmp_path)
    assert (len(data.train), len(data.test), data.input_shape) == (30, 20, (1, 4, 4))
    assert data.identity["classes"][9] == "9 - nine"


class Parts:
    """Stands in for classes of torchvision that name their parts."""

    classes = ("a", "b")

    def __init__(self, root, split="train", download=False, transform=None):
        if split not in self.known:
            raise ValueError(f"Unknown value '{split}' for argument split")
        if not download:
            raise RuntimeError("Dataset not found")
        if self.offline:
            raise OSError("no route to host")
        self._labels = [0, 1] * (6 if split[:5] == "train" else 4)

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return Image.fromarray(PIXELS[index]), self._labels[index]


@pytest.mark.parametrize("known", [("train", "test"), ("trainval", "val"), ("first", "second")])
def test_parts_have_the_names_that_the_class_knows(tmp_path, monkeypatch, known):
    package = vision.torchvision().datasets
    kind = type("SVHN", (Parts,), {"known": known, "offline": False})
    monkeypatch.setattr(package, "SVHN", kind)
    settings = {"kind": "torchvision", "name": "SVHN"}
    if known[0] == "first":
        refused(settings, tmp_path, "SVHN knows none of the splits train, trainval")
        settings |= {"train": {"split": "first"}, "n_test": 4}
    data = load(settings, tmp_path)
    assert (len(data.train), len(data.test)) == ((4, 4) if known[0] == "first" else (12, 8))
    kind.offline = True
    refused(settings, tmp_path, r"SVHN is not in .*cache and cannot be fetched \(OSError: no route")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": "FakeDate"}, "no data set 'FakeDate'; similar are FakeData"),
        ({"options": {"sise": 3}}, "FakeData has no argument sise, it has image_size, num_classes"),
        ({}, "has no test part"),
        ({"n_test": 4, "transform": "timm"}, "the network's weights are not timm's"),
        ({"n_test": 4, "transform": "timm:resnet1x"}, "names no published weights here"),
        ({"n_test": 4, "transform": "torch:nn", "normalisation": "train"}, "state one of them"),
        ({"options": {"size": 10**7, "num_classes": 2}, "n_test": 4}, None),
    ],
)
def test_wrong_settings_of_torchvision_are_refused(tmp_path, monkeypatch, more, message):
    settings = {"kind": "torchvision", "name": "FakeData", "options": {"size": 60}} | more
    if message is None:
        message = "need .* GB of memory: state data.n_train and data.n_test"
        monkeypatch.setattr("hessian_directions.data.source.memory", lambda: 10**6)
        settings["options"]["size"] = 40
    refused(settings, tmp_path, message)


# Functions of the user's

OWN = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from PIL import Image

PIXELS = np.load(__file__.replace("own.py", "pixels.npy"))
LABELS = np.arange(len(PIXELS)) % 4

class Images(Dataset):
    targets = (LABELS + 1).tolist()                  # before the transform of the targets
    read = []
    def __init__(self, n=40, shift=0):
        self.n, self.shift = n, shift
    def __len__(self):
        return self.n
    def __getitem__(self, index):
        Images.read.append(index)
        return Image.fromarray(PIXELS[index]), int(LABELS[index]) + self.shift

def one(n=40, shift=0): return Images(n, shift)
def pair(): return Subset(Images(), range(24)), Subset(Images(), range(24, 40))
def named(): return {"train": pair()[0], "validation": pair()[1]}
def loaders(): return [DataLoader(part, batch_size=5, shuffle=True) for part in pair()]
def keras(): return (PIXELS[:24], LABELS[:24]), (PIXELS[24:], LABELS[24:])
def tensors():
    whole = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    return TensorDataset(whole[:24], torch.from_numpy(LABELS[:24])), \\
        TensorDataset(whole[24:], torch.from_numpy(LABELS[24:]))
def halves(): return torch.from_numpy(PIXELS / 256.0).bfloat16(), torch.from_numpy(LABELS)
def inputs_and_targets(cache):
    assert cache.name == "cache"
    return torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
def fails(): return [][1]
def stream(): return type("Stream", (IterableDataset,), {"__iter__": iter})()
def nothing(): return None
def four(): return 1, 2, 3, 4
def wrong_keys(): return {"a": 1}

class Random(Images):
    def __getitem__(self, index): return torch.randn(3), int(LABELS[index])
class Triples(Images):
    def __getitem__(self, index): return 1, 2, 3
class Late(Images):
    def __getitem__(self, index):
        return PIXELS[index][: 3 + (index == 7)], int(LABELS[index])

transform = lambda image: torch.from_numpy(np.asarray(image).astype("f4")).permute(2, 0, 1) / 255
class Half:
    def __init__(self, factor=0.5): self.factor = factor
    def __call__(self, image): return self.factor * transform(image)
def fragile(image): return transform(image)[7]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own.py").write_text(OWN)
    np.save(tmp_path / "pixels.npy", PIXELS)
    return {"kind": "python", "name": "own:one"}


@pytest.mark.parametrize("name", ["pair", "named", "loaders", "keras", "tensors"])
def test_a_function_gives_training_and_test_part_in_any_usual_form(own, tmp_path, name):
    data = load(own | {"name": f"own.py:{name}"}, tmp_path / "cache", tmp_path)
    normalise = Normalisation.of(PIXELS[:24])
    assert torch.equal(data.train.inputs, normalise(PIXELS[:24]))
    assert torch.equal(data.test.inputs, normalise(PIXELS[24:]))
    assert data.test.targets.tolist() == LABELS[24:].tolist()


@pytest.mark.parametrize("name", ["one", "inputs_and_targets"])
def test_a_function_gives_one_part_of_which_only_the_chosen_samples_are_read(own, tmp_path, name):
    settings = own | {"name": f"own:{name}", "n_train": 8, "n_test": 4}
    data = load(settings, tmp_path / "cache", tmp_path)
    assert (len(data.train), len(data.test)) == (8, 4)
    chosen = data.train.indices
    assert data.train.targets.tolist() == LABELS[chosen].tolist()
    assert torch.equal(data.train.inputs, Normalisation.of(PIXELS[chosen])(PIXELS[chosen]))
    assert data.identity == load(settings, tmp_path / "cache", tmp_path).identity


def test_half_precision_is_raised(own, tmp_path):
    data = load(own | {"name": "own:halves", "n_test": 0}, tmp_path / "cache", tmp_path)
    assert data.train.inputs.dtype == torch.float32
    expected = torch.from_numpy(PIXELS / 256.0).permute(0, 3, 1, 2)
    assert torch.allclose(data.train.inputs.double(), expected, atol=2**-8)


def test_kept_targets_save_reading_what_is_not_chosen(own, tmp_path):
    settings = own | {"options": {"shift": 1}, "n_classes": 5, "n_train": 4, "n_test": 4}
    load(settings, tmp_path / "cache", tmp_path)
    assert len(set(sys.modules["own"].Images.read)) <= 4 + 4 + 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("absent", {}, "data.name: own:absent cannot be imported: .*own.py has no absent"),
        ("fails", {}, r"own:fails fails with options {}: IndexError: .*own.py, line 33\)"),
        ("one", {"m": 3}, "unexpected keyword argument 'm'"),
        ("one", {"n": 0}, r"own:one \(train\): there are no samples"),
        ("PIXELS", {}, "own:PIXELS is a ndarray, no function"),
        ("stream", {}, "has no length|is a Stream: it should be"),
        ("nothing", {}, "is a NoneType: it should be a torch.utils.data.Dataset"),
        ("four", {}, r"returns 4 things, not a pair"),
        ("wrong_keys", {}, "returns a dictionary with the keys a, not with train and test"),
        ("Random", {}, "another one when it is read again, as random augmentation"),
        ("Triples", {}, "a sample is a tuple, not a pair"),
        ("Late", {}, "the images have several sizes, state data.size"),
        ("one", {"n": 50}, r"sample .* cannot be read: IndexError: .*own.py, line 18\)"),
    ],
)
def test_errors_in_functions_are_one_sentence(own, tmp_path, name, options, message):
    refused(own | {"name": f"own:{name}", "options": options, "n_test": 4}, tmp_path, message)


# Folders of images


def write_images(folder, layout, suffix="png"):
    """PIXELS as files in class folders; `layout` gives the folder of the image of a number."""
    for number, (image, label) in enumerate(zip(PIXELS, LABELS)):
        path = folder / layout(number) / "abcd"[label] / f"{number:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return {"kind": "image_folder", "path": folder.name}


@pytest.mark.parametrize("test", ["test", "val", "validation", "flowers/val", "own"])
def test_image_folders_with_the_usual_names_of_parts(tmp_path, test):
    root = "flowers/" if "/" in test else ""
    settings = write_images(tmp_path / "d", lambda n: f"{root}train" if n < 24 else test)
    (tmp_path / "d" / root / "test").mkdir(exist_ok=True)  # of ImageNet: no labels in it
    if test != "test":
        Image.fromarray(PIXELS[0]).save(tmp_path / "d" / root / "test" / "1.png")
    if test == "own":
        refused(settings, tmp_path, "no test part")
        settings["test"] = "own"
    data = load(settings, tmp_path / "cache", tmp_path)
    assert (len(data.train), len(data.test)) == (24, 16)
    assert torch.equal(data.test.inputs, Normalisation.of(PIXELS[:24])(PIXELS[24:]))
    few = load(settings | {"n_test": 8}, tmp_path / "cache", tmp_path)
    assert torch.equal(few.test.indices, data.test.balanced(8).indices)
    refused(settings | {"test": "nowhere"}, tmp_path, "no folder nowhere with class folders")
    refused(settings | {"train": "nowhere"}, tmp_path, r"no folder nowhere \(data.train\)")


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_folder_of_classes_is_split_and_only_chosen_images_are_decoded(tmp_path, form):
    settings = write_images(tmp_path / "d", lambda n: "") | {"n_train": 8, "n_test": 4, "seed": 2}
    chosen = load(settings, tmp_path, tmp_path)
    assert (chosen.train.targets.bincount().tolist(), len(chosen.test)) == ([2] * 4, 4)
    used = set(torch.cat([chosen.train.indices, chosen.test.indices]).tolist())
    for number in set(range(40)) - used:
        (tmp_path / "d" / "abcd"[number % 4] / f"{number:02}.png").write_bytes(b"no image")
    if form == "archive":
        with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as file:
            file.add(tmp_path / "d", "d")
        settings["path"] = "d.tar.gz"
    assert load(settings, tmp_path, tmp_path).identity == chosen.identity
    # An unreadable image matters as soon as it is chosen.
    refused(settings | {"n_train": 36}, tmp_path, r"[abcd]/\d\d.png cannot be read as an image")


def test_class_numbers_of_a_network_of_more_classes(tmp_path):
    settings = write_images(tmp_path / "d", lambda n: "train" if n < 24 else "test")
    (tmp_path / "names.txt").write_text("z\nd\nb\na\n\nc\ny\n")
    by_file, by_list, by_number = (
        load(settings | more, tmp_path, tmp_path)
        for more in (
            {"classes": "names.txt"},
            {"classes": ["z", "d", "b", "a", "c", "y"]},
            {"classes": {"d": 1, "b": 2, "a": 3, "c": 4}, "n_classes": 6},
        )
    )
    numbers = np.array([3, 2, 4, 1])[LABELS[:24]]
    for data in (by_file, by_list, by_number):
        assert data.n_outputs == 6
        assert data.train.targets.tolist() == numbers.tolist()
    assert by_file.identity == by_list.identity
    few = settings | {"classes": ["a", "b"]}
    refused(few, tmp_path, "class folder c is not among data.classes")
    refused(settings | {"classes": ["a", "a"]}, tmp_path, "data.classes: names or numbers repeat")
    refused(settings | {"n_classes": 9}, tmp_path, "data.n_classes needs data.classes")


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        ("own:transform", (3, 6, 5)),
        ("own:Half", (3, 6, 5)),
        ({"name": "own:Half", "options": {"factor": 1.0}}, (3, 6, 5)),
        ("timm:test_resnet", (3, 160, 160)),
        ("timm", (3, 160, 160)),
        ("torchvision:resnet18", (3, 224, 224)),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V2", (3, 224, 224)),
    ],
)
def test_transforms_of_the_user_s_and_of_published_weights(own, tmp_path, transform, shape):
    settings = write_images(tmp_path / "d", lambda n: "") | {"n_train": 4, "n_test": 4}
    settings["transform"] = transform
    data = load(settings, tmp_path, tmp_path, published="timm:test_resnet")
    assert data.input_shape == shape
    assert data.identity["normalisation"] is None
    image = Image.fromarray(PIXELS[data.train.indices[0]])
    if shape[1] == 6:
        factor = 0.5 if transform == "own:Half" else 1
        expected = factor * torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255
    else:
        name = "timm:test_resnet" if transform == "timm" else transform
        assert data.identity["transform"] == name
        expected = vision.evaluation_transform(name)(image)
        sized = load(settings | {"size": 32}, tmp_path, tmp_path, published="timm:test_resnet")
        assert sized.input_shape == (3, 32, 32)
    assert torch.equal(data.train.inputs[0], expected)
    # The statistics of ImageNet, as people write them, are those of the transform.
    if transform == "torchvision:resnet18":
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        by_hand = settings | {"normalisation": {"mean": mean, "deviation": deviation}}
        del by_hand["transform"]
        plain = load(by_hand, tmp_path, tmp_path).train.inputs[0]
        cropped = vision.torchvision().transforms.functional.to_tensor(image)
        mean, deviation = (torch.tensor(one).view(3, 1, 1) for one in (mean, deviation))
        standard = (cropped - mean) / deviation
        assert torch.allclose(plain, standard, atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("own:fragile", r"own:fragile fails on an image: IndexError: .*own.py, line 51\)"),
        ("own:PIXELS", "own:PIXELS is a ndarray, not a function of an image"),
        ("own:nowhere", "data.transform: own:nowhere cannot be imported"),
        ({"name": "own:Half", "options": {"f": 1}}, "own:Half cannot be called with options"),
        ({"name": "own:Half", "factor": 1}, "is a name, or has the keys name and options"),
    ],
)
def test_errors_in_transforms_are_one_sentence(own, tmp_path, transform, message):
    settings = write_images(tmp_path / "d", lambda n: "") | {"n_test": 4}
    refused(settings | {"transform": transform}, tmp_path, message)
