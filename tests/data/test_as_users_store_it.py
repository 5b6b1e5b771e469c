"""Data as people store them: understood as they are meant, or refused in one sentence with its key."""

import itertools
import typing

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_directions.analyses import problem
from hessian_directions.data.registry import KINDS, load, settings_of
from hessian_directions.data.source import Choice
from hessian_directions.errors import HessianDirectionsError, ModelError, NonFiniteError
from hessian_directions.learning import checkpoints
from hessian_directions.models.registry import build
from hessian_directions.objectives.objective import Objective
from hessian_directions.settings import described

RANDOM = np.random.default_rng(1)
N = 24
LABELS = np.arange(N) % 2


def refused(settings, folder, *said):
    with pytest.raises(HessianDirectionsError) as caught:
        load(settings, folder / "cache", folder, name="d")
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in said:
        assert part in sentence
    return sentence


# Image folders


def write_images(folder, parts, classes=("apple", "birne rot"), n=6, size=(6, 5)):
    """n images of each class in each of the parts, "" for none."""
    for part, label, number in itertools.product(parts, classes, range(n)):
        path = folder / part / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return {"kind": "image_folder", "path": folder.name}


TRAINING = ("train", "Train", "TRAIN", "training", "Training")
TEST = ("test", "Test", "TESTING", "testing", "val", "Val", "validation", "Validation", "VALID")


@pytest.mark.parametrize("around", ["", "Flowers/"])
@pytest.mark.parametrize(("training", "test"), [*zip(TRAINING, TEST), *zip(TRAINING, TEST[4:])])
def test_parts_are_known_in_capitals_and_in_full(tmp_path, around, training, test):
    settings = write_images(tmp_path / "d", [around + training, around + test])
    data = load(settings, tmp_path)
    assert data.identity["classes"] == ["apple", "birne rot"]
    assert (len(data.train), len(data.test)) == (12, 12)
    assert load(settings | {"train": "TrAiNing"[: len(training)]}, tmp_path).identity == (
        data.identity
    )


@pytest.mark.parametrize(
    "parts", [("test", "val"), ("Testing",), ("Validation", "other"), ("my images", "Test")]
)
def test_parts_are_no_classes(tmp_path, parts):
    settings = write_images(tmp_path / "d", parts) | {"n_test": 4}
    known = [part for part in sorted(parts) if part in (*TEST, "Testing")]
    refused(settings, tmp_path, f"the folders {', '.join(known)} would be classes", "data.train")


def test_folders_of_folders_are_no_classes(tmp_path):
    settings = write_images(tmp_path / "d", ["learning", "checking"]) | {"n_test": 4}
    said = "the folder checking would be a class, but holds only the folders apple, birne rot"
    refused(settings, tmp_path, said, "data.train", "data.classes")
    named = load(settings | {"train": "learning", "test": "checking"}, tmp_path)
    assert named.n_classes == 2
    # Whoever says that they are classes is believed.
    stated = load(settings | {"classes": ["learning", "checking"]}, tmp_path)
    assert stated.identity["classes"] == ["learning", "checking"]


def test_classes_may_be_called_as_parts_where_they_are_stated(tmp_path):
    settings = write_images(tmp_path / "d", [""], ("valid", "invalid")) | {"n_test": 4}
    refused(settings, tmp_path, "the folders valid would be classes", "state data.classes")
    assert load(settings | {"classes": ["invalid", "valid"]}, tmp_path).n_classes == 2


def test_one_folder_inside_each_class_is_passed_over(tmp_path):
    """As in Tiny ImageNet."""
    settings = write_images(tmp_path / "d", [""], ("a/images", "b/images")) | {"n_test": 4}
    assert load(settings, tmp_path).identity["classes"] == ["a", "b"]


def test_two_folders_of_one_name_are_not_chosen_from(tmp_path):
    settings = write_images(tmp_path / "d", ["train", "Train", "test"])
    refused(settings, tmp_path, "has the folders Train and train: rename one of them")


def test_the_classes_are_named_where_a_test_part_is_missing(tmp_path):
    settings = write_images(tmp_path / "d", [""], [f"c{k}" for k in range(8)], n=1)
    refused(settings, tmp_path, "d has no test part (its classes are c0, c1, c2, c3, c4, c5, …)")


def test_images_of_more_than_8_bits(tmp_path):
    settings = write_images(tmp_path / "d", [""]) | {"n_test": 4}
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "d" / "apple" / "0.png")
    refused(settings, tmp_path, "apple/0.png", "more than 8 bits", "convert all images to 8 bits")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_no_names_of_classes(tmp_path, content):
    settings = write_images(tmp_path / "d", [""]) | {"n_test": 4}
    (tmp_path / "names.txt").write_text(content)
    refused(settings | {"classes": "names.txt"}, tmp_path, "names.txt holds no names (data.clas")
    for empty in ([], {}):
        refused(settings | {"classes": empty}, tmp_path, f"key 'data.d.classes' is {empty}")


# Arrays


def arrays(folder, inputs, targets=LABELS, **more):
    np.savez(folder / "d.npz", x=inputs, y=targets)
    return {"kind": "arrays", "path": "d.npz", "n_test": 8} | more


TYPES = ("uint8", "int64", "float32", "float64")


def numbers(shape, dtype):
    return (RANDOM.random((N, *shape)) * 255).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5, 13, 64])
@pytest.mark.parametrize("side", [1, 3, 4, 12, 32])
def test_channels_are_the_axis_beside_a_square(tmp_path, dtype, n_channels, side):
    if n_channels == side:
        return
    first = numbers((n_channels, side, side), dtype)
    data = load(arrays(tmp_path, first, normalisation="none"), tmp_path, tmp_path)
    last = load(
        arrays(tmp_path, np.moveaxis(first, 1, -1), normalisation="none"), tmp_path, tmp_path
    )
    assert data.input_shape == last.input_shape == (n_channels, side, side)
    assert torch.equal(data.train.inputs, last.train.inputs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((3, 6, 5), (3, 6, 5)),
        ((6, 5, 4), (4, 6, 5)),
        ((12, 5, 12), None),
        ((5, 6, 7), None),
        ((8, 8, 8), None),
        ((2, 6, 5), None),
    ],
)
def test_channels_that_the_shape_does_not_tell_have_to_be_stated(tmp_path, dtype, shape, found):
    settings = arrays(tmp_path, numbers(shape, dtype))
    if found is not None:
        assert load(settings, tmp_path, tmp_path).input_shape == found
    else:
        refused(settings, tmp_path, f"d.npz: x has type {dtype}", "state data.channels, first or")
    for channels, stated in (("first", shape), ("last", (shape[2], *shape[:2]))):
        data = load(settings | {"channels": channels}, tmp_path, tmp_path)
        assert data.input_shape == stated


@pytest.mark.parametrize(("dtype", "first"), [("uint8", False), ("float32", True)])
def test_where_both_axes_could_be_the_channels_it_is_as_documented(tmp_path, dtype, first):
    data = load(arrays(tmp_path, numbers((3, 9, 4), dtype)), tmp_path, tmp_path)
    assert data.input_shape == ((3, 9, 4) if first else (4, 3, 9))


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("dtype", [*TYPES, "float16", "bool", "int8"])
def test_grey_images_get_an_axis_where_channels_are_stated(tmp_path, dtype, channels):
    inputs = numbers((12, 10), "uint8").astype(dtype)
    data = load(arrays(tmp_path, inputs, channels=channels), tmp_path, tmp_path)
    assert data.input_shape == (1, 12, 10)
    assert data.train.inputs.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16"])
def test_integers_of_three_axes_have_to_be_said_what_they_are(tmp_path, dtype):
    settings = arrays(tmp_path, numbers((12, 10), dtype))
    refused(settings, tmp_path, "d.npz: x has type", "data.channels: first", "data.tokens: true")
    assert load(settings | {"tokens": True}, tmp_path, tmp_path).train.inputs.dtype == torch.int64
    assert load(settings | {"tokens": False}, tmp_path, tmp_path).input_shape == (12, 10)


@pytest.mark.parametrize("model", ["timm:resnet18", "torchvision:resnet18", "resnet", "densenet"])
def test_a_network_of_images_says_what_grey_images_lack(model):
    options = {"depth": 8} if model == "resnet" else {}
    with pytest.raises(ModelError, match=r"not inputs \(12, 12\): grey .* data.channels: first"):
        build(model, options, input_shape=(12, 12), n_outputs=2, seed=0)


@pytest.mark.parametrize(
    ("shape", "more", "said"),
    [
        ((7,), {}, "shape (24, 7), which no images have"),
        ((2, 3, 4, 5), {}, "which no images have"),
        ((12, 10), {"tokens": True}, "data.channels: token ids have none"),
    ],
)
def test_channels_are_never_passed_over(tmp_path, shape, more, said):
    settings = arrays(tmp_path, numbers(shape, "int64"), channels="first", **more)
    refused(settings, tmp_path, "data.channels: ", said)


@pytest.mark.parametrize("part", ["test", "testing", "val", "validation", "valid", "VAL"])
@pytest.mark.parametrize("form", ["x_{}", "{}_images"])
def test_arrays_know_the_names_of_parts(tmp_path, part, form):
    inputs, target = numbers((4, 4, 3), "uint8"), form.replace("x", "y").replace("images", "labels")
    content = {}
    for name, rows in ((form, inputs), (target, LABELS)):
        content |= {name.format("train"): rows[:16], name.format(part): rows[16:]}
    np.savez(tmp_path / "d.npz", **content)
    settings = {"kind": "arrays", "path": "d.npz"}
    data = load(settings, tmp_path, tmp_path)
    assert (len(data.train), len(data.test)) == (16, 8)
    # Where there are several, the test part is the test part.
    content |= {name.format("test"): rows[20:] for name, rows in ((form, inputs), (target, LABELS))}
    np.savez(tmp_path / "d.npz", **content)
    assert len(load(settings, tmp_path, tmp_path).test) == 4


# Classes that are stored in other ways

ONE_HOT = np.eye(2)[LABELS]


def network_on(settings, loss=None):
    model = {"name": "mlp", "options": {}}
    return {"model": model, "loss": loss, "data": "d", "data_settings": settings}


def loss_of(folder, targets, loss):
    network = network_on(arrays(folder, numbers((5,), "float32"), targets), loss)
    return problem.choose_loss(loss, problem.load_data(network, cache=str(folder), folder=folder))


CLASSES = {
    "floats": LABELS.astype(np.float32),
    "doubles": LABELS.astype(np.float64),
    "half": LABELS.astype(np.float16),
    "column": LABELS[:, None].astype(float),
    "signs": 2.0 * LABELS - 1,
    "from one": LABELS + 1.0,
    "one-hot": ONE_HOT,
    "smoothed": 0.9 * ONE_HOT + 0.05,
    "several": np.stack([LABELS, 1 - LABELS, LABELS], 1).astype(float),
}


@pytest.mark.parametrize("stored", CLASSES)
def test_floats_that_look_like_classes_are_asked_about(tmp_path, stored):
    targets = CLASSES[stored]
    for loss in (None, "cross_entropy"):
        with pytest.raises(HessianDirectionsError) as caught:
            loss_of(tmp_path, targets, loss)
        assert "y.astype(int), or y.argmax(1) of one-hot rows" in str(caught.value)
        assert "'loss'" in str(caught.value)
        assert ("mean_squared_error" in str(caught.value)) == (loss is None)
    assert loss_of(tmp_path, targets, "mean_squared_error") is problem.mean_squared_error


@pytest.mark.parametrize(
    "targets",
    [RANDOM.normal(size=N), RANDOM.normal(size=(N, 2)), np.arange(N) * 100.0, LABELS + 0.5],
)
def test_numbers_to_predict_are_not_asked_about(tmp_path, targets):
    assert loss_of(tmp_path, targets, None) is problem.mean_squared_error


def test_the_loss_of_numbers_for_classes_says_what_to_do(tmp_path):
    with pytest.raises(HessianDirectionsError, match=r"'loss' is mean_sq.* floats, y.astype"):
        loss_of(tmp_path, LABELS, "mean_squared_error")


@pytest.mark.parametrize(
    ("targets", "remedy"),
    [
        (LABELS.astype(str), "np.unique(y, return_inverse=True)[1]"),
        (np.array(["a", "bb"])[LABELS], "np.unique(y, return_inverse=True)[1]"),
        (ONE_HOT.astype(int), "y.argmax(1)"),
        (ONE_HOT.astype(bool), "y.argmax(1)"),
    ],
)
def test_other_labels_are_refused_with_a_remedy(tmp_path, targets, remedy):
    refused(arrays(tmp_path, numbers((5,), "float32"), targets), tmp_path, "d.npz: y", remedy)


# Values of keys

# What no key of a type can be; YAML reads 1e1 as a text and yes as true.
WRONG = {
    int: ["1e1", "4", 32.5, True, [4], {"a": 1}],
    float: ["0.1", True, float("nan"), [0.1]],
    str: [3, True, ["a"], 2.5],
}
ALL_KEYS = [(kind, key) for kind in KINDS for key in settings_of(kind).model_fields]


@pytest.mark.parametrize(("kind", "key"), ALL_KEYS)
def test_every_key_of_every_kind_refuses_values_of_a_wrong_type(tmp_path, kind, key):
    fields = settings_of(kind).model_fields
    needed = {name: "d" for name, field in fields.items() if field.is_required()}
    types = typing.get_type_hints(Choice, include_extras=True)
    types |= typing.get_type_hints(KINDS[kind], include_extras=True)
    # No key may be a set, or an empty text.
    for value in ({1}, ""):
        said = f"key 'data.d.{key}' is {value!r}; allowed: {described(types[key])}"
        assert refused({"kind": kind} | needed | {key: value}, tmp_path) == said
        assert "another value" not in said


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("n_train", [*WRONG[int], 0, -1]),
        ("n_test", [*WRONG[int], -1]),
        ("seed", [*WRONG[int], "x", -1, 2**32]),
        ("test_share", [*WRONG[float], 0, 1, 1.5]),
        ("n_classes", [*WRONG[int], 1]),
        ("path", [*WRONG[str], ""]),
        ("train", WRONG[str]),
        ("size", ["4", 32.5, True, 0, [4], [4, 4, 4], [4, 0], [4, "5"], {"a": 1}]),
        ("channels", ["3", 2, "first", [3]]),
        ("classes", [3, 2.5, True, [], {}, [True, False], [["a"]], {"a": "b"}, {"a": -1}]),
        ("transform", [3, ["timm"], True, ""]),
        ("sha256", ["abc", 3, {"train": 3}]),
        (
            "normalisation",
            [
                "standard",
                3,
                {"mean": None, "deviation": 1},
                {"mean": float("nan"), "deviation": 1},
                {"mean": [0.5, float("inf")], "deviation": 1},
                {"mean": "0.5", "deviation": 1},
                {"mean": 0, "std": 1},
            ],
        ),
    ],
)
def test_values_that_a_key_cannot_have(tmp_path, key, values):
    settings = {"kind": "image_folder", "path": "d", "n_test": 4}
    for value in values:
        refused(settings | {key: value}, tmp_path, f"key 'data.d.{key}' is ", "; allowed: ")


@pytest.mark.parametrize("kind", [None, 3, ["digits"], {}, "digit"])
def test_kinds_that_are_none(tmp_path, kind):
    refused({"kind": kind}, tmp_path, "data.kind: ")


def test_whatever_fails_is_one_sentence(tmp_path, monkeypatch):
    def broken(*, cache):
        raise error("reason\nmore")

    monkeypatch.setitem(KINDS, "digits", broken)
    for error in (IndexError, KeyError, OSError, ZeroDivisionError, RuntimeError, TypeError):
        said = f"data of kind digits cannot be made from {{}}: {error.__name__}"
        refused({"kind": "digits"}, tmp_path, said)


def test_normalisation_that_makes_inputs_infinite(tmp_path):
    statistics = {"mean": 0, "deviation": 1e-300}
    settings = arrays(tmp_path, numbers((5,), "float32"), normalisation=statistics)
    refused(settings, tmp_path, "data.normalisation: train inputs of d become NaN or infinite")


# Numbers of images, and what is not finite


def test_a_number_of_images_that_cannot_be_balanced_names_its_key(tmp_path):
    network = network_on(arrays(tmp_path, numbers((5,), "float32"))) | {"n_images": 5}
    given = {"seed": 0, "device": "cpu", "precision": "float32", "cache": None}
    studied = problem.load(network, folder=tmp_path, **given)
    with pytest.raises(HessianDirectionsError) as caught:
        studied.objective()
    assert str(caught.value) == (
        "key 'n_images' of the train split: 5 samples cannot be balanced over 2 classes, multiples "
        "of 2 can"
    )


def test_a_class_of_one_sample(tmp_path):
    settings = arrays(tmp_path, numbers((5,), "float32"), np.where(np.arange(N) == 3, 2, LABELS))
    refused(settings, tmp_path, "data.n_test: class 2, numbered from 0, has one sample")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_name_file_and_key(tmp_path, value):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["2.weight"][1, 2] = value
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(NonFiniteError, match=r"weights\.pt: 1 of the 8 numbers of key 2\.weight"):
        checkpoints.import_into(model, {"file": "weights.pt"}, tmp_path, tmp_path)


def test_masks_may_be_infinite(tmp_path):
    model = torch.nn.Linear(3, 2)
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    checkpoints.import_into(model, {"file": "weights.pt"}, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [("weights", "weights of the network are NaN"), ("inputs", "inputs or targets are NaN")],
)
def test_an_objective_says_what_is_not_finite(spoiled, said):
    model, inputs = torch.nn.Linear(3, 2), torch.randn(12, 3)
    with torch.no_grad():
        (model.weight if spoiled == "weights" else inputs)[0, 0] = torch.nan
    objective = Objective(model, torch.nn.functional.cross_entropy, inputs, torch.arange(12) % 2)
    with pytest.raises(NonFiniteError, match=said):
        objective.gradient()


# How data were understood


def test_data_are_described_in_a_line(tmp_path):
    settings = write_images(tmp_path / "bilder", ["Train", "Test"], ("Äpfel", "birnen rot"))
    data = load(settings | {"normalisation": {"mean": 0.5, "deviation": 0.25}}, tmp_path)
    assert data.describe() == (
        "12 training and 12 test images, 3×6×5 (channels×height×width), 2 classes (birnen rot, "
        "Äpfel), normalised by mean 127.5 and deviation 63.75"
    )
    many = write_images(tmp_path / "many", ["train", "test"], [f"c{k}" for k in range(9)], n=1)
    assert ", 9 classes (c0, c1, c2, c3, c4, c5, …), " in load(many, tmp_path).describe()


@pytest.mark.parametrize(
    ("inputs", "targets", "more", "said"),
    [
        (
            numbers((4, 4, 3), "float32"),
            LABELS,
            {},
            "16 training and 8 test images, 3×4×4 (channels×height×width), 2 classes (0, 1), not "
            "normalised",
        ),
        (
            numbers((5,), "float32"),
            RANDOM.normal(size=(N, 3)),
            {},
            "16 training and 8 test samples of shape 5, 3 numbers to predict, not normalised",
        ),
        (
            numbers((5,), "int64"),
            LABELS,
            {"n_test": 0},
            "24 training and 24 test sequences of token ids of shape 5, 2 classes (0, 1), the training "
            "samples double as test samples",
        ),
    ],
)
def test_other_data_are_described(tmp_path, inputs, targets, more, said):
    assert load(arrays(tmp_path, inputs, targets, **more), tmp_path, tmp_path).describe() == said


@pytest.mark.parametrize(
    ("kind", "said"),
    [("digits", "1347 training and 450 test images, 1×8×8"), ("function", "50 training and 1000 ")],
)
def test_data_that_come_along_are_described(tmp_path, kind, said):
    assert load({"kind": kind}, tmp_path).describe().startswith(said)
