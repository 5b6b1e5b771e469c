"""Data: order, checksums and errors, on miniature archives in the formats of the real ones."""

import hashlib
import http.server
import io
import socketserver
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from miniature import CLASSES, N_BATCH, cifar10_pixels, write_cifar10, write_files
from PIL import Image

from hessian_directions.data import cache, cifar10, reencode
from hessian_directions.data.dataset import Normalisation, Split, checksum, index_ranges, positions
from hessian_directions.data.registry import load
from hessian_directions.errors import ConfigurationError, DataError
from hessian_directions.models import vision

NOWHERE = "http://127.0.0.1:9/cifar-10-python.tar.gz"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(cache.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def pixels():
    return cifar10_pixels()


@pytest.fixture(scope="module")
def archive(pixels, tmp_path_factory):
    """A miniature of cifar-10-python.tar.gz and its sha256."""
    path = tmp_path_factory.mktemp("archive") / cifar10.ARCHIVE
    return path, write_cifar10(path, pixels)


def settings(archive, **more):
    _, checksum = archive
    return {"kind": "cifar10", "archive": {"url": NOWHERE, "sha256": checksum}} | more


def png(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="png")
    return content.getvalue()


def subset_members(pixels, first):
    """The first images of every batch under the names of the exact subset: class, batch, index."""
    members = {}
    for name, (images, labels) in pixels.items():
        for index in range(first):
            stem = f"{index:05}" if name == "test_batch" else f"{name[-1]}_{index:05}"
            split = "test" if name == "test_batch" else "train"
            members[f"{split}/{CLASSES[labels[index]]}/{stem}.png"] = png(images[index])
    return members


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def write_tar(path, members):
    with tarfile.open(path, "w:xz") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


# Splits and checksums


def test_ranges_and_indices_are_inverse():
    ranges = [[0, 3], [10, 11], [11, 12], [40, 44]]
    indices = positions(ranges, "train_indices")
    assert indices.tolist() == [0, 1, 2, 10, 11, 40, 41, 42, 43]
    assert index_ranges(torch.from_numpy(indices)) == [[0, 3], [10, 12], [40, 44]]


@pytest.mark.parametrize("ranges", [[[3, 3]], [[5, 2]], [[0, 4], [3, 6]], [[-1, 2]], [[1, 2, 3]]])
def test_bad_ranges_are_refused_by_name(ranges):
    with pytest.raises(ConfigurationError, match=r"data.test_indices"):
        positions(ranges, "test_indices")


def test_checksum_is_that_of_the_bytes_in_index_order():
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    labels = np.array([7, 1])
    expected = hashlib.sha256(bytes(range(24)) + b"\x07\x01").hexdigest()
    assert checksum(images, labels) == expected
    assert checksum(images[::-1], labels[::-1]) != expected


def test_balanced_choice_keeps_the_order_and_refuses_what_cannot_be():
    targets = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 1])
    split = Split(torch.arange(10.0)[:, None], targets, 100 + torch.arange(10))
    chosen = split.balanced(6)
    assert chosen.indices.tolist() == [100, 101, 102, 103, 104, 105]
    assert split.balanced(9).targets.bincount().tolist() == [3, 3, 3]
    with pytest.raises(DataError, match="cannot be balanced over 3 classes"):
        split.balanced(7)
    with pytest.raises(DataError, match="need 4 of each class, class 0 has 3"):
        split.balanced(12)
    with pytest.raises(DataError, match="real numbers"):
        Split(split.inputs, split.inputs, split.indices).balanced(6)


def test_split_takes_by_position_slice_and_tensor():
    split = Split(torch.arange(5.0), torch.arange(5), torch.arange(5))
    assert split.take([4, 0]).inputs.tolist() == [4, 0]
    assert split.take(slice(1, 3)).targets.tolist() == [1, 2]
    assert len(split.take(torch.tensor([2]))) == 1


def test_normalisation_of_images_gives_mean_zero_and_deviation_one(pixels):
    images, _ = pixels["test_batch"]
    normalised = Normalisation.of(images)(images).double()
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-6
    assert (normalised.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


# Digits and function


def test_digits_are_stratified_standardised_and_seeded(tmp_path):
    data, same, other = (load({"kind": "digits", "seed": seed}, tmp_path) for seed in (0, 0, 1))
    assert data.train.inputs.shape == (1347, 1, 8, 8)
    assert data.test.inputs.shape == (450, 1, 8, 8)
    assert data.train.inputs.dtype == torch.float32
    assert data.input_shape == (1, 8, 8)
    assert data.n_outputs == data.n_classes == 10
    everything = torch.cat([data.train.inputs, data.test.inputs]).double()
    assert abs(everything.mean()) < 1e-6
    assert abs(everything.std(correction=0) - 1) < 1e-6
    shares = [split.targets.bincount() / len(split) for split in (data.train, data.test)]
    assert (shares[0] - shares[1]).abs().max() < 0.003
    indices = torch.cat([data.train.indices, data.test.indices])
    assert indices.sort().values.equal(torch.arange(1797))
    assert torch.equal(data.test.indices, same.test.indices)
    assert data.identity == same.identity
    assert not torch.equal(data.test.indices, other.test.indices)
    assert data.identity["test_sha256"] != other.identity["test_sha256"]
    assert load({"kind": "digits", "n_test": 400}, tmp_path).identity["n_test"] == 400


def test_digits_in_colour_and_enlarged(tmp_path):
    """The same images in the same order: enlarged without interpolation they would be repeated pixels."""
    small = load({"kind": "digits"}, tmp_path)
    large = load({"kind": "digits", "size": 16, "channels": 3}, tmp_path)
    assert large.input_shape == (3, 16, 16)
    assert torch.equal(large.train.indices, small.train.indices)
    assert torch.equal(large.train.targets, small.train.targets)
    colours = large.test.inputs
    assert torch.equal(colours[:, 0], colours[:, 1])
    assert torch.equal(colours[:, 0], colours[:, 2])
    # Bilinear enlargement by two, away from the edges: weights 9, 3, 3, 1 of 16, then whole numbers.
    pixels = (small.test.inputs[:, 0] * 6.016787548672 + 4.884164579855).round()
    enlarged = (colours[:, 0] * 6.016787548672 + 4.884164579855).round()
    a, b, c, d = pixels[:, 2, 2], pixels[:, 2, 3], pixels[:, 3, 2], pixels[:, 3, 3]
    expected = (9 * a + 3 * b + 3 * c + d) / 16
    assert (enlarged[:, 5, 5] - expected).abs().max() <= 1
    assert load({"kind": "digits", "size": 8}, tmp_path).train.inputs.equal(small.train.inputs)


def test_function_is_the_stated_one(tmp_path):
    data = load({"kind": "function"}, tmp_path)
    assert data.n_classes is None
    assert data.n_outputs == 1
    assert data.train.inputs.shape == data.train.targets.shape == (50, 1)
    assert data.test.inputs.shape == (1000, 1)
    x = data.test.inputs.double().numpy()
    assert np.all(np.diff(x[:, 0]) > 0)
    assert x.min() < -0.98
    assert x.max() > 0.98
    values = np.log(np.sin(10 * x) + 2) + np.sin(x)
    assert np.abs(values - data.test.targets.numpy()).max() < 1e-5
    again, other = (load({"kind": "function", "seed": seed}, tmp_path) for seed in (0, 1))
    assert torch.equal(data.train.inputs, again.train.inputs)
    assert not torch.equal(data.train.inputs, other.train.inputs)
    few = load({"kind": "function", "n_train": 3, "n_test": 5}, tmp_path)
    assert (few.identity["n_train"], few.identity["n_test"]) == (3, 5)


# CIFAR-10


def test_cifar10_by_index_equals_the_subset_in_the_cache(archive, pixels, tmp_path):
    ranges = {"train_indices": [[N_BATCH * b, N_BATCH * b + 15] for b in range(5)]}
    ranges["test_indices"] = [[0, 15]]
    data = load(settings(archive, **ranges), archive[0].parent)
    members = subset_members(pixels, 15)
    shuffled = dict(sorted(members.items(), key=lambda item: hashlib.md5(item[1]).digest()))
    sources = [
        write_files(tmp_path / "folder", shuffled),
        write_zip(tmp_path / "archive.zip", shuffled),
        write_tar(tmp_path / "archive.tar.xz", {f"./{k}": v for k, v in shuffled.items()}),
    ]
    checksums = {split: data.identity[f"{split}_sha256"] for split in ("train", "test")}
    for source in sources:
        described = {"kind": "cifar10", "subset": source.name, "sha256": checksums}
        other = load(described | ranges, tmp_path)
        for ours, theirs in ((data.train, other.train), (data.test, other.test)):
            assert torch.equal(ours.inputs, theirs.inputs)
            assert torch.equal(ours.targets, theirs.targets)
            assert torch.equal(ours.indices, theirs.indices)
        assert (data.name, data.identity) == (other.name, other.identity)
    others = {"train_indices": [[0, 75]], "test_indices": [[0, 15]]}
    with pytest.raises(ConfigurationError, match=r"subset needs data.sha256 of train and test"):
        load({"kind": "cifar10", "subset": "folder"} | others, tmp_path)
    missing = dict(list(members.items())[1:])
    write_zip(tmp_path / "less.zip", missing)
    with pytest.raises(DataError, match=r"train images of cifar10 have sha256 .* not"):
        load({"kind": "cifar10", "subset": "less.zip", "sha256": checksums} | ranges, tmp_path)


def test_cifar10_images_are_the_archive_s(archive, pixels, tmp_path):
    data = load(settings(archive), archive[0].parent)
    assert data.train.inputs.shape == (5 * N_BATCH, 3, 32, 32)
    assert data.identity["classes"] == CLASSES
    images, labels = pixels["data_batch_3"]
    mean, deviation = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])
    expected = (images - mean) / deviation
    there = data.train.inputs[2 * N_BATCH : 3 * N_BATCH].permute(0, 2, 3, 1).numpy()
    assert np.abs(there - expected).max() < 1e-5
    assert data.train.targets[2 * N_BATCH : 3 * N_BATCH].tolist() == labels.tolist()
    assert data.identity["test_sha256"] == checksum(*pixels["test_batch"])
    assert [path.name for path in archive[0].parent.iterdir()] == [cifar10.ARCHIVE]


def test_cifar10_refuses_other_pixels_indices_and_keys(archive, tmp_path):
    folder = archive[0].parent
    with pytest.raises(DataError, match=r"the 20 test images of cifar10 have sha256 .* not 00"):
        load(settings(archive, sha256={"test": "00"}), folder)
    with pytest.raises(ConfigurationError, match=r"test_indices: index 20 is outside .* 20 test"):
        load(settings(archive, test_indices=[[0, 21]]), folder)
    with pytest.raises(ConfigurationError, match="exactly the keys url and sha256"):
        load({"kind": "cifar10", "archive": {"url": NOWHERE}}, folder)
    with pytest.raises(ConfigurationError, match=r"normalisation: .* 3 numbers each"):
        load(settings(archive, normalisation={"mean": [1], "deviation": [1]}), folder)
    with pytest.raises(ConfigurationError, match="exactly the keys mean and deviation"):
        load(settings(archive, normalisation={"mean": [1]}), folder)
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"no archive")
    checksum = hashlib.sha256(b"no archive").hexdigest()
    with pytest.raises(DataError, match=r"is not an archive of CIFAR-10's Python version"):
        load(settings((None, checksum)), tmp_path)


def test_cifar10_unpacked_by_torchvision_is_read_without_archive(
    archive, pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr(cifar10, "URL", NOWHERE)
    with pytest.raises(DataError, match=cifar10.SHA256):
        load({"kind": "cifar10"}, tmp_path)
    with tarfile.open(archive[0]) as file:
        file.extraction_filter = tarfile.data_filter
        file.extractall(tmp_path)
    with pytest.raises(DataError, match=cifar10.SHA256):
        load({"kind": "cifar10"}, tmp_path)
    miniature = cifar10._without_checksums(vision.torchvision().datasets.CIFAR10)
    monkeypatch.setattr(vision.torchvision().datasets, "CIFAR10", miniature)
    data = load({"kind": "cifar10"}, tmp_path)
    assert data.identity["test_sha256"] == checksum(*pixels["test_batch"])


# Cache


@pytest.fixture
def server(archive):
    """Serves the archive, and counts requests."""
    content = archive[0].read_bytes()
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            data = content[:100] if self.path.startswith("/short") else content
            self.send_response(404 if self.path.startswith("/absent") else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", requests
        httpd.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_then_found_without_network(server, archive, tmp_path):
    address, requests = server
    path = cache.fetch(f"{address}/a.tar.gz", archive[1], "a.tar.gz", tmp_path / "new")
    assert path.read_bytes() == archive[0].read_bytes()
    assert cache.fetch(NOWHERE, archive[1], "a.tar.gz", tmp_path / "new") == path
    assert len(requests) == 1


def test_without_network_one_sentence_names_file_address_folder_and_checksum(tmp_path):
    with pytest.raises(DataError) as caught:
        cache.fetch(NOWHERE, "ab" * 32, "a.tar.gz", tmp_path)
    message = str(caught.value)
    for part in ("a.tar.gz", NOWHERE, str(tmp_path), "ab" * 32, cache.VARIABLE):
        assert part in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", ["other", "short", "absent"])
def test_wrong_truncated_and_absent_files_leave_nothing_behind(server, archive, tmp_path, page):
    address, _ = server
    checksum = "00" * 32 if page == "other" else archive[1]
    reason = "another checksum" if page == "other" else "could not be fetched"
    with pytest.raises(DataError, match=reason):
        cache.fetch(f"{address}/{page}", checksum, "a.tar.gz", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_file_in_the_cache_is_never_used(server, archive, tmp_path):
    address, _ = server
    (tmp_path / "a").write_bytes(archive[0].read_bytes()[:-1])
    with pytest.raises(DataError, match="the file in the folder has sha256"):
        cache.fetch(NOWHERE, archive[1], "a", tmp_path)
    assert cache.fetch(f"{address}/a", archive[1], "a", tmp_path).read_bytes() == (
        archive[0].read_bytes()
    )


def test_cache_folder_is_configured_or_from_the_environment(tmp_path):
    assert cache.folder(tmp_path / "a", {cache.VARIABLE: "b"}) == tmp_path / "a"
    assert str(cache.folder(None, {cache.VARIABLE: "b"})) == "b"
    assert cache.folder(None, {}).name == "hessian-directions"


# Folders of images


def test_an_archive_in_the_cache_is_found_by_name(pixels, tmp_path):
    path = write_zip(tmp_path / "images.zip", subset_members(pixels, N_BATCH))
    described = {
        "kind": "image_folder",
        "path": "images.zip",
        "url": NOWHERE,
        "archive_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert load(described, tmp_path).identity["n_train"] == 5 * N_BATCH
    with pytest.raises(DataError, match=r"images.zip is needed from"):
        load(described | {"archive_sha256": "00"}, tmp_path)
    with pytest.raises(ConfigurationError, match="are stated together"):
        load({"kind": "image_folder", "path": "images.zip", "url": NOWHERE}, tmp_path)


def test_images_are_scaled_and_turned_grey(pixels, tmp_path):
    folder = write_files(tmp_path / "a", subset_members(pixels, N_BATCH))
    data = load({"kind": "image_folder", "path": str(folder), "size": 8, "channels": 1}, tmp_path)
    assert data.input_shape == (1, 8, 8)
    assert len(data.identity["normalisation"]["mean"]) == 1
    assert abs(data.train.inputs.mean()) < 1e-5


def test_stray_files_are_passed_over(pixels, tmp_path):
    folder = write_files(tmp_path / "a", subset_members(pixels, N_BATCH))
    expected = load({"kind": "image_folder", "path": str(folder)}, tmp_path).identity
    for name in (".DS_Store", "train/.DS_Store", "train/bird/._1.png", "train/notes.txt", "n.png"):
        (folder / name).write_text("stray")
    assert load({"kind": "image_folder", "path": str(folder)}, tmp_path).identity == expected


def test_missing_and_empty_class_folders_are_named(pixels, tmp_path):
    members = subset_members(pixels, N_BATCH)

    def refused(members, message, write=write_files):
        path = write(tmp_path / message.replace("/", "_"), members)
        with pytest.raises(DataError, match=message):
            load({"kind": "image_folder", "path": str(path)}, tmp_path)

    no_bird = {k: v for k, v in members.items() if not k.startswith("test/bird")}
    refused(no_bird, "test/bird is missing or empty")
    refused(no_bird, "folder test/bird is missing or empty", write_zip)
    no_ships = {k: v for k, v in members.items() if not k.startswith(("test/bird", "test/ship"))}
    refused(no_ships, "test/bird is missing or empty")
    refused({}, "holds no class folders", write_zip)
    refused(members | {"train/cat/x.png": b"no image"}, "train/cat/x.png cannot be read")
    refused(members | {"train/cat/x.png": png(np.zeros((3, 4, 3), np.uint8))}, "several sizes")

    folder = write_files(tmp_path / "with_empty", members)
    (folder / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match="train/zebra is missing or empty"):
        load({"kind": "image_folder", "path": str(folder)}, tmp_path)
    with pytest.raises(DataError, match="nowhere is missing"):
        load({"kind": "image_folder", "path": str(tmp_path / "nowhere")}, tmp_path)
    (tmp_path / "text").write_text("text")
    with pytest.raises(DataError, match="neither a folder nor"):
        load({"kind": "image_folder", "path": str(tmp_path / "text")}, tmp_path)


def test_folder_in_the_cache_and_a_balanced_choice_of_it(pixels, tmp_path):
    write_files(tmp_path / "whole", subset_members(pixels, N_BATCH))
    described = {"kind": "image_folder", "path": "whole"}
    whole = load(described, tmp_path)
    few = load(described | {"n_train": 20}, tmp_path)
    chosen = whole.train.balanced(20)
    assert torch.equal(few.train.indices, chosen.indices)
    assert torch.equal(few.train.targets, chosen.targets)
    assert few.train.targets.bincount().tolist() == [2] * 10
    assert torch.equal(few.test.indices, whole.test.indices)
    with pytest.raises(DataError, match="21 samples cannot be balanced over 10 classes"):
        load(described | {"n_train": 21}, tmp_path)


def test_unknown_kinds_and_keys_are_refused_with_what_is_allowed(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'digit' is unknown, .* digits, function, cifar"):
        load({"kind": "digit"}, tmp_path)
    sentence = "unknown key 'data.mine.n_tset'; allowed here: n_test, seed, size, channels"
    with pytest.raises(ConfigurationError, match=sentence):
        load({"kind": "digits", "n_tset": 3}, tmp_path, name="mine")
    sentence = r"key 'data.path' is missing; it is a folder, or an archive \(zip.* unpacking$"
    with pytest.raises(ConfigurationError, match=sentence):
        load({"kind": "image_folder"}, tmp_path)


# Re-encoding


def test_reencoded_images_are_near_the_originals_and_in_the_same_layout(archive, pixels, tmp_path):
    described = settings(archive)["archive"]
    n_images = reencode.reencode(archive[0].parent, tmp_path / "jpeg", described)
    assert n_images == 6 * N_BATCH
    data = load({"kind": "image_folder", "path": str(tmp_path / "jpeg")}, tmp_path)
    assert (data.identity["n_train"], data.identity["n_test"]) == (5 * N_BATCH, N_BATCH)
    assert data.identity["classes"] == CLASSES
    images, labels = pixels["data_batch_1"]
    first = images[np.flatnonzero(labels == 3)[0]].astype(float)
    with Image.open(tmp_path / "jpeg" / "train" / "cat" / "0000.jpg") as image:
        # The standard's luminance table at quality 75 begins 8, 6, 5; chrominance is halved.
        assert image.quantization[0][:3] == [8, 6, 5]
        assert image.layer[0][1:3] == (2, 2)
        stored = np.asarray(image).astype(float)
    others = [np.corrcoef(stored.ravel(), other.ravel())[0, 1] for other in images.astype(float)]
    assert np.argmax(others) == np.flatnonzero(labels == 3)[0]
    assert np.corrcoef(stored.ravel(), first.ravel())[0, 1] > 0.5
    with pytest.raises(DataError, match="is there already"):
        reencode.reencode(archive[0].parent, tmp_path / "jpeg", described)


def test_the_archive_of_reencoded_images_is_found_in_the_cache(archive, tmp_path):
    described, cache = settings(archive)["archive"], archive[0].parent
    assert reencode.reencode_into(cache, described) == 6 * N_BATCH
    assert reencode.reencode(cache, tmp_path / "jpeg", described) == 6 * N_BATCH
    packed = load({"kind": "image_folder", "path": reencode.ARCHIVE}, cache)
    folder = load({"kind": "image_folder", "path": str(tmp_path / "jpeg")}, tmp_path)
    for name in ("inputs", "targets"):
        assert torch.equal(getattr(packed.train, name), getattr(folder.train, name))
        assert torch.equal(getattr(packed.test, name), getattr(folder.test, name))


def test_reencode_prints_one_sentence_when_it_cannot(tmp_path, capsys):
    assert reencode.main([str(tmp_path), "--cache", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
