"""Training against plain PyTorch loops; repeatable, resumable, and honest about what it kept."""

import math
import os
import platform
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hessian_directions.data.dataset import Split
from hessian_directions.errors import ArtifactError, ConfigurationError, NonFiniteError
from hessian_directions.learning import checkpoints, training
from hessian_directions.learning.settings import TrainingSettings
from hessian_directions.learning.training import (
    evaluate,
    flip_crop,
    restore_snapshot,
    train,
    with_label_noise,
)
from hessian_directions.models.registry import build


def squares(outputs, targets):
    return (outputs - targets).square().mean()


def regression(n=21, seed=0):
    x = 2 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) - 1
    return Split(x, torch.sin(3 * x), torch.arange(n))


def classes(n=50, seed=0, n_classes=3):
    """Images that carry their class in their mean."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(n_classes, (n,), generator=generator)
    noise = torch.randn(n, 1, 8, 8, generator=generator)
    return Split(noise + 2 * targets[:, None, None, None], targets, torch.arange(n))


def mlp(seed=0, **options):
    options = {"width": 8, "hidden_layers": 2, "activation": "tanh"} | options
    return build("mlp", options, input_shape=(1,), n_outputs=1, seed=seed)


def resnet(seed=0):
    options = {"depth": 8, "width": 2}
    return build("resnet", options, input_shape=(1, 8, 8), n_outputs=3, seed=seed)


def theta(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def assert_same_arrays(expected, found):
    for key, values in expected.items():
        assert np.array_equal(values, found[key])


def plain_losses(model, split, optimizer, epochs):
    """Full-batch training as everybody writes it: the loss before every step, and the last."""
    losses = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = squares(model(split.inputs), split.targets)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return [*losses, squares(model(split.inputs), split.targets).item()]


# Against plain loops


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({}, lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
    ],
)
def test_full_batch_training_equals_a_plain_loop(settings, optimizer):
    ours, plain = mlp(), mlp()
    result = train(ours, squares, regression(), None, settings | {"epochs": 15}, seed=0)
    losses = plain_losses(plain, regression(), optimizer(plain.parameters()), 15)
    assert torch.allclose(theta(ours), theta(plain), rtol=1e-5, atol=1e-6)
    assert np.allclose(result.history["train_loss"], losses, rtol=1e-4)
    assert result.history["epoch"].tolist() == list(range(16))


def test_best_is_the_lowest_of_all_epochs_though_few_are_recorded():
    """With this momentum the loss overshoots, and the lowest one lies between the records."""
    settings = {"epochs": 40, "learning_rate": 0.05, "momentum": 0.98, "history_every": 17}
    settings["keep"] = "best"
    ours, plain = mlp(), mlp()
    result = train(ours, squares, regression(), None, settings, seed=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.98)
    losses = plain_losses(plain, regression(), optimizer, 40)
    assert result.history["epoch"].tolist() == [0, 17, 34, 40]
    assert result.kept_epoch == int(np.argmin(losses))
    assert result.kept_epoch not in {0, 17, 34, 40}
    assert math.isclose(evaluate(ours, squares, regression())[0], min(losses), rel_tol=1e-5)


def test_best_of_a_network_with_batch_norm_is_the_lowest_recorded_loss_in_evaluation_mode():
    settings = {"epochs": 12, "learning_rate": 0.5, "keep": "best", "history_every": 2}
    for batch_size in (None, 10):
        model = resnet()
        more = {"batch_size": batch_size}
        result = train(model, cross_entropy, classes(), None, settings | more, seed=0)
        losses = result.history["train_loss"]
        assert result.kept_epoch == result.history["epoch"][losses.argmin()]
        assert math.isclose(evaluate(model, cross_entropy, classes())[0], losses.min())


def test_every_sample_is_used_once_an_epoch_in_batches_of_nearly_equal_size():
    batches = []

    def loss(outputs, targets):
        if outputs.requires_grad:
            batches.append(targets[:, 0].tolist())
        return squares(outputs, targets)

    split = Split(torch.randn(23, 1), torch.arange(23.0)[:, None], torch.arange(23))
    train(mlp(), loss, split, None, {"epochs": 3, "batch_size": 5, "learning_rate": 1e-9}, seed=0)
    epochs = [batches[start : start + 5] for start in (0, 5, 10)]
    for epoch in epochs:
        assert sorted(chain.from_iterable(epoch)) == list(range(23))
        assert {len(batch) for batch in epoch} == {4, 5}
    assert epochs[0] != epochs[1]


def test_averaging_batches_instead_of_samples():
    """hessian-eigenthings' mistake: with batches of 64, 64, 2 the last counts 32 times too much."""
    model, split = mlp(), regression(130)
    expected = squares(model(split.inputs), split.targets).item()
    assert math.isclose(evaluate(model, squares, split, batch_size=64)[0], expected, rel_tol=1e-6)


def test_evaluation_is_in_evaluation_mode_and_keeps_the_mode():
    model = resnet().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    split = classes()
    loss, accuracy = evaluate(model, cross_entropy, split, batch_size=7)
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    outputs = model.eval()(split.inputs)
    assert math.isclose(loss, cross_entropy(outputs, split.targets).item(), rel_tol=1e-5)
    assert accuracy == (outputs.argmax(1) == split.targets).double().mean().item()
    assert math.isnan(evaluate(mlp(), squares, regression())[1])


# What training leaves


def test_network_learns_and_is_left_in_evaluation_mode_with_parameters_of_its_own(tmp_path):
    model = resnet()
    settings = {"epochs": 15, "batch_size": 10, "momentum": 0.9, "schedule": "cosine"}
    result = train(model, cross_entropy, classes(), classes(seed=1), settings, seed=0)
    assert not model.training
    assert result.history["test_accuracy"][-1] > 0.9
    assert result.history["train_loss"][-1] < 0.2 * result.history["train_loss"][0]
    assert all(parameter.grad is None for parameter in model.parameters())
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert len(storages) == len(list(model.parameters()))
    checkpoints.save(tmp_path / "a", model, {})
    loss, _ = evaluate(model, cross_entropy, classes(seed=1))
    assert math.isclose(loss, result.history["test_loss"][-1])


def test_frozen_parameters_stay_and_shared_ones_stay_shared():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    frozen, shared = model[0].bias.clone(), model[0].weight.detach().clone()
    split = Split(torch.randn(9, 2), torch.randn(9, 1), torch.arange(9))
    result = train(model, squares, split, None, {"epochs": 3, "snapshots": 2}, seed=0)
    assert torch.equal(model[0].bias, frozen)
    assert model[2].weight is model[0].weight
    assert not torch.equal(model[0].weight, shared)
    assert result.snapshots["theta"].shape == (2, 4 + 2 + 2 + 1)


# Seeds


def test_equal_seeds_give_equal_bits_whatever_the_global_generator():
    settings = {"epochs": 3, "batch_size": 7, "augmentation": "flip_crop", "label_noise": 0.2}
    results = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        model = nn.Sequential(resnet(), nn.Dropout(0.5))
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        train(model, cross_entropy, classes(), None, settings, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(theta(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_label_noise_replaces_the_stated_share_by_other_classes():
    split = classes(200, n_classes=4)
    noisy = with_label_noise(split, 0.3, seed=5)
    changed = noisy.targets != split.targets
    assert changed.sum() == 60
    assert set(noisy.targets.tolist()) == {0, 1, 2, 3}
    assert torch.equal(noisy.targets, with_label_noise(split, 0.3, seed=5).targets)
    assert not torch.equal(noisy.targets, with_label_noise(split, 0.3, seed=6).targets)
    assert with_label_noise(split, 0, seed=5) is split
    settings = {"epochs": 1, "label_noise": 0.3}
    result = train(resnet(), cross_entropy, classes(), None, settings, seed=5)
    assert torch.equal(result.train.targets, with_label_noise(classes(), 0.3, seed=5).targets)
    with pytest.raises(ConfigurationError, match="label_noise needs classes"):
        with_label_noise(regression(), 0.1, seed=0)


# Resuming


class KilledError(Exception):
    pass


def killed_after(epoch):
    def progress(status):
        if status.done == epoch:
            raise KilledError

    return progress


RESUMABLE = {
    "sgd": {
        "epochs": 9,
        "batch_size": 8,
        "learning_rate": 0.2,
        "momentum": 0.9,
        "snapshots": 4,
        "schedule": "one_cycle",
        "label_noise": 0.1,
        "augmentation": "flip_crop",
        "keep": "best",
    },
    "full batch": {"epochs": 9, "learning_rate": 0.01, "snapshots": 10},
}


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
    state = tmp_path / "state.pt"

    def run(model, progress=None, state_path=state):
        kept = {"state_path": state_path, "save_seconds": 0, "progress": progress}
        test, settings = classes(seed=1), RESUMABLE[name]
        return train(model, cross_entropy, classes(), test, settings, seed=4, **kept)

    def network():
        return nn.Sequential(resnet(), nn.Dropout(0.2))

    whole, resumed = network(), network()
    expected = run(whole, state_path=None)
    for epoch in (3, 7):
        with pytest.raises(KilledError):
            run(network(), killed_after(epoch))
    seen = []
    run(network(), lambda status: seen.append(status.done))
    assert seen == [7, 8, 9]
    # What comes after training may fail, too: the state is left to the caller.
    result = run(resumed)
    assert torch.equal(theta(whole), theta(resumed))
    assert_same_arrays(expected.history, result.history)
    assert result.kept_epoch == expected.kept_epoch
    assert_same_arrays(expected.snapshots, result.snapshots)
    assert list(tmp_path.iterdir()) == [state]


def test_a_run_killed_within_an_epoch_resumes_to_the_same_bits(tmp_path):
    """An epoch of a large network takes an hour: what is lost is a minute."""
    settings = RESUMABLE["sgd"]
    calls = 0

    def killed_at(step):
        nonlocal calls
        calls = 0

        def loss(outputs, targets):
            nonlocal calls
            calls += outputs.requires_grad
            if calls == step:
                raise KilledError
            return cross_entropy(outputs, targets)

        return loss

    def run(model, loss=cross_entropy, **options):
        return train(model, loss, classes(), None, settings, seed=4, **options)

    whole, resumed = resnet(), resnet()
    expected = run(whole)
    kept = {"state_path": tmp_path / "state.pt", "save_seconds": 0}
    for step in (2, 3, 11, 6):  # steps of a run, not of an epoch
        with pytest.raises(KilledError):
            run(resnet(), killed_at(step), **kept)
    result = run(resumed, killed_at(-1), **kept)
    steps = settings["epochs"] * math.ceil(len(classes()) / settings["batch_size"])
    assert calls == steps - (1 + 2 + 10 + 5)  # what was done before is not done again
    assert torch.equal(theta(whole), theta(resumed))
    assert_same_arrays(expected.history, result.history)


@pytest.mark.parametrize("other", ["seed", "settings", "weights", "data"])
def test_one_fixed_cache_file_for_every_network(other, tmp_path):
    """loss-landscape-anim's mistake: the state of another run is refused."""
    state = tmp_path / "state.pt"

    def run(changed="", **options):
        model, data = mlp(seed=int(changed == "weights")), regression(seed=int(changed == "data"))
        settings = {"epochs": 4, "learning_rate": 0.2 if changed == "settings" else 0.1}
        seed = int(changed == "seed")
        train(model, squares, data, None, settings, seed=seed, state_path=state, **options)

    with pytest.raises(KilledError):
        run(save_seconds=0, progress=killed_after(3))
    name = {"settings": "learning_rate 0.1, not 0.2", "data": "samples"}.get(other, other)
    with pytest.raises(ArtifactError, match=f"saved by a run with {name}"):
        run(other)
    assert state.exists()


# Ends


def test_target_loss_ends_training_and_says_whether_it_was_reached():
    settings = {"epochs": 60, "batch_size": 10, "history_every": 3, "target_loss": 0.3}
    reached = train(resnet(), cross_entropy, classes(), None, settings, seed=0)
    assert reached.reached
    assert reached.epochs < 60
    assert reached.epochs % 3 == 0
    losses = reached.history["train_loss"]
    assert losses[-1] <= 0.3 < losses[:-1].min()
    short = {"epochs": 1, "target_loss": 1e-9, "snapshots": 2}
    missed = train(resnet(), cross_entropy, classes(), None, short, seed=0)
    assert not missed.reached
    assert train(mlp(), squares, regression(), None, {"epochs": 0}, seed=0).reached


def test_snapshots_end_where_training_ended():
    settings = {"epochs": 60, "batch_size": 10, "target_loss": 0.3, "snapshots": 5}
    model = resnet()
    result = train(model, cross_entropy, classes(), None, settings, seed=0)
    assert result.snapshots["epoch"][-1] == result.epochs < 60
    assert np.array_equal(result.snapshots["theta"][-1], theta(model).numpy())


@pytest.mark.parametrize("batch_size", [None, 6])
def test_a_loss_that_is_not_finite_names_epoch_and_rate(batch_size):
    settings = {"epochs": 50, "learning_rate": 1e30, "batch_size": batch_size}
    with pytest.raises(NonFiniteError, match=r"in epoch [1-9]\d* at learning rate 1e\+30"):
        train(mlp(activation="relu"), squares, regression(), None, settings, seed=0)


# Snapshots


def test_snapshot_epochs():
    def epochs(**settings):
        return TrainingSettings(**settings).snapshot_epochs()

    assert epochs(epochs=100, snapshots=0) == []
    assert epochs(epochs=100, snapshots=2) == [0, 100]
    assert epochs(epochs=3, snapshots=9) == [0, 1, 2, 3]
    assert epochs(epochs=1000, snapshots=5) == [0, 1, 10, 100, 1000]
    for n in range(2, 30):
        chosen = epochs(epochs=29, snapshots=n)
        assert len(chosen) == n == len(set(chosen))
        assert chosen == sorted(chosen)
        assert (chosen[0], chosen[-1]) == (0, 29)


def test_a_restored_snapshot_has_the_loss_of_its_epoch():
    """The running statistics of BatchNorm belong to the epoch as much as the weights."""
    model = resnet()
    start = theta(model).numpy().copy()
    settings = {"epochs": 6, "batch_size": 10, "snapshots": 7}
    result = train(model, cross_entropy, classes(), None, settings, seed=0)
    snapshots = result.snapshots
    assert snapshots["theta"].dtype == np.float32
    assert np.array_equal(snapshots["theta"][0], start)
    other = resnet(seed=9).double()
    for k, epoch in enumerate(snapshots["epoch"]):
        restore_snapshot(snapshots, k, other)
        loss = evaluate(other, cross_entropy, classes())[0]
        assert math.isclose(loss, result.history["train_loss"][epoch], rel_tol=1e-4)
    assert next(other.parameters()).dtype == torch.float64
    assert train(mlp(), squares, regression(), None, {}, seed=0).snapshots == {}


# Schedules and augmentation


def test_schedules():
    def rates(schedule, shares):
        settings = TrainingSettings(schedule=schedule, learning_rate=0.4, epochs=10)
        return [settings.rate(share) for share in shares]

    assert rates("constant", [0, 0.5, 1]) == [0.4, 0.4, 0.4]
    assert np.allclose(rates("cosine", [0, 0.5, 1]), [0.4, 0.2, 0])
    steps = 1000
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=steps, cycle_momentum=False
    )
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step() if len(expected) < steps else None
    ours = rates("one_cycle", np.arange(steps) / steps)
    assert np.abs(np.array(ours) - expected).max() < 0.01 * 0.4


def test_the_rate_of_the_schedule_is_the_one_that_is_used_and_recorded():
    settings = {"epochs": 4, "schedule": "cosine", "learning_rate": 0.2}
    ours, plain = mlp(), mlp()
    result = train(ours, squares, regression(), None, settings, seed=0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.2)
    used = [0.1 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    for rate in used:
        optimizer.param_groups[0]["lr"] = rate
        plain_losses(plain, regression(), optimizer, 1)
    assert torch.allclose(theta(ours), theta(plain), atol=1e-6)
    assert np.allclose(result.history["learning_rate"], [0.2, *used])


def test_flip_crop_mirrors_and_shifts_every_image_its_own_way():
    images = torch.rand(64, 2, 16, 24, generator=torch.Generator().manual_seed(0)) + 1
    changed = flip_crop(images, torch.Generator().manual_seed(1))
    assert torch.equal(changed, flip_crop(images, torch.Generator().manual_seed(1)))
    found = set()
    for image, new in zip(images, changed, strict=True):
        padded = nn.functional.pad(image, (3, 3, 2, 2))
        candidates = {
            (down, right, mirrored): (crop.flip(2) if mirrored else crop)
            for down in range(5)
            for right in range(7)
            for mirrored in (False, True)
            for crop in [padded[:, down : down + 16, right : right + 24]]
        }
        matching = [key for key, value in candidates.items() if torch.equal(value, new)]
        assert len(matching) == 1
        found.add(matching[0])
    assert len(found) > 30
    assert {mirrored for _, _, mirrored in found} == {False, True}
    assert {down for down, _, _ in found} == set(range(5))
    assert {right for _, right, _ in found} == set(range(7))


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rte": 1}, "unknown key 'training.learning_rte'; allowed here: epochs, batch"),
        ({"schedule": "step"}, "'training.schedule' is 'step'; allowed: constant, cosine, one_cyc"),
        ({"keep": "worst"}, "'training.keep' is 'worst'; allowed"),
        ({"augmentation": True}, "'training.augmentation' is True; allowed: none, flip_crop"),
        ({"epochs": -1}, "'training.epochs' is -1; allowed"),
        ({"epochs": 1.5}, "'training.epochs' is 1.5; allowed"),
        ({"batch_size": 0}, "'training.batch_size' is 0; allowed"),
        ({"learning_rate": "1e-3"}, "'training.learning_rate' is '1e-3'; allowed"),
        ({"learning_rate": 0}, "'training.learning_rate' is 0; allowed"),
        ({"momentum": 1.0}, "training.momentum"),
        ({"nesterov": True}, "training.nesterov"),
        ({"label_noise": 1.5}, "training.label_noise"),
        ({"snapshots": 1}, "'training.snapshots' is 1; allowed"),
        ({"history_every": 0}, "training.history_every"),
        ({"augmentation": "flip_crop"}, "flip_crop needs images"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        train(mlp(), squares, regression(), None, settings, seed=0)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(ConfigurationError, match="no trainable parameters"):
        train(nn.Flatten(), squares, regression(), None, {}, seed=0)


def test_a_step_in_mixed_precision_is_the_step_to_two_digits(monkeypatch):
    """Weights and what is reported stay in float32; bfloat16 has eight bits."""
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    start, steps, losses = theta(mlp()), {}, {}
    for mixed in (False, True):
        model, settings = mlp(), {"learning_rate": 0.1, "mixed_precision": mixed}
        result = train(model, squares, regression(), None, settings, seed=0)
        assert theta(model).dtype == torch.float32
        assert result.precision == ("bfloat16" if mixed else "float32")
        steps[mixed], losses[mixed] = theta(model) - start, result.history["train_loss"]
    deviation = (steps[True] - steps[False]).norm() / steps[False].norm()
    assert 0 < deviation < 0.02
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


def test_without_instructions_for_bfloat16_training_is_in_float32_and_says_so(monkeypatch):
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    models = mlp(), mlp()
    train(models[0], squares, regression(), None, {"epochs": 2}, seed=0)
    settings = {"epochs": 2, "mixed_precision": True}
    with pytest.warns(UserWarning, match=r"^training\.mixed_precision: .* is in float32$"):
        result = train(models[1], squares, regression(), None, settings, seed=0)
    assert result.precision == "float32"
    assert torch.equal(theta(models[0]), theta(models[1]))


@pytest.mark.parametrize(
    ("onednn", "avx512", "avx512_bf16", "expected"),
    [
        (True, True, True, True),
        (True, True, False, False),  # AVX-512 of 2017
        (False, True, True, False),  # held back by ONEDNN_MAX_CPU_ISA
        (False, False, False, False),  # AVX2
        (True, False, False, True),  # ARM
    ],
)
def test_instructions_for_bfloat16(monkeypatch, onednn, avx512, avx512_bf16, expected):
    for place, name, answer in (
        (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", onednn),
        (torch.cpu, "_is_avx512_supported", avx512),
        (torch.cpu, "_is_avx512_bf16_supported", avx512_bf16),
    ):
        monkeypatch.setattr(place, name, lambda answer=answer: answer)
    assert training.has_bfloat16(torch.device("cpu")) == expected


def test_a_machine_without_avx512_has_no_bfloat16():
    """The question itself, not an answer put in its place."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("x86 alone has AVX-512")
    program = (
        "import torch; from hessian_directions.learning.training import has_bfloat16; "
        "print(has_bfloat16(torch.device('cpu')))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("mixed_precision", "tolerance"), [(False, 1e-3), (True, 0.3)])
def test_on_a_gpu_the_same_draws_make_about_the_same_step(mixed_precision, tolerance):
    """In bfloat16 on a CPU such a step is off by 0.09 to 0.14 of its length; another one by 1.4."""
    settings = {"epochs": 1, "learning_rate": 0.1, "augmentation": "flip_crop"}
    steps = []
    for device in ("cpu", "cuda"):
        more = {"mixed_precision": mixed_precision and device == "cuda"}
        model = resnet()
        before = theta(model)
        train(model, cross_entropy, classes(), None, settings | more, seed=0, device=device)
        assert next(model.parameters()).device.type == device
        steps.append(theta(model).cpu() - before)
    assert (steps[1] - steps[0]).norm() < tolerance * steps[0].norm()
