"""What every job of a profile takes, predicted from measured passes of its networks.

An analysis says how many passes its jobs make and how many vectors they hold (`analyses.registry`);
what one pass of a network takes is measured on a few images (`measure`) and kept in
`results/computed/<profile>/passes.json`. So a prediction makes no pass and imports no PyTorch.
"""

import copy
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hessian_directions.analyses import registry
from hessian_directions.errors import about
from hessian_directions.files import to_json
from hessian_directions.progress import duration, seconds_of
from hessian_directions.reproduction import artifacts

# Seconds and bytes of a job beside its work, measured: a fork of a process that has imported what it needs.
COMPUTING = (0.5, 450e6)
DRAWING = (2.5, 340e6)
# Vectors or points of a call that share passes: `vectors_at_once` of an objective.
AT_ONCE = 16
# So many of them are measured where each has its own passes: the first shares none.
FEW = 4
# Seconds that a number of a point or vector takes outside the passes: drawn, scaled, added.
VECTOR = 1e-8
# Kinds of passes, and those that are made in float64 whatever the profile's precision.
KINDS = ("value", "gradient", "product", "derivative", "values", "products", "derivatives")
PRECISE = ("values", "derivatives")
# What is shorter is measured again and again for so long [s].
LONG_ENOUGH = 0.1


# Seconds of a batch whatever its size, and of each image in it.
Affine = tuple[float, float]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Estimate:
    """What a job takes.

    Attributes:
        seconds: Wall time where nothing else runs, the start of its process included.
        bytes: Largest memory; where the device is a GPU, of either.
    """

    seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        """What two jobs take one after the other."""
        return Estimate(self.seconds + other.seconds, max(self.bytes, other.bytes))


def recorded(archive: Path, device: str) -> list[tuple[str, dict[str, str], Estimate]]:
    """Rule, wildcards and cost of an archive's jobs; none where they ran on another device.

    What else a machine did makes wall times longer and processor times hardly: of jobs on a CPU the
    processor's time counts. Records that name no device are of a CPU.
    """
    records = [artifacts.read_json(path) for path in sorted(archive.rglob("*.run.json"))]
    devices = {record.setdefault("device", "cpu") for record in records}
    # With a GPU, what needs none still runs on the CPU.
    if device not in devices or (device == "cpu" and len(devices) > 1):
        return []
    jobs = []
    for record in records:
        seconds = record["cpu_seconds" if record["device"] == "cpu" else "wall_seconds"]
        estimate = Estimate(seconds, record["peak_memory_bytes"])
        jobs.append((record["rule"], record["wildcards"], estimate))
    return jobs


def expectations(
    settings: Mapping[str, Any], archive: Path
) -> Callable[[str, Mapping[str, Any]], Estimate | None]:
    """What a job takes, by its rule and wildcards; None where nothing tells.

    Passes that were measured here predict it; else it is what the job of this name took for the
    profile's archive, where it may have had other settings.
    """
    passes = read(settings)
    known = recorded(archive, settings["device"])
    records = {key_of(rule, wildcards): job for rule, wildcards, job in known}

    def expected(rule: str, wildcards: Mapping[str, Any]) -> Estimate | None:
        place = {key: str(value) for key, value in wildcards.items()}
        return predicted(settings, passes, rule, place) or records.get(key_of(rule, place))

    return expected


def key_of(rule: str, wildcards: Mapping[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    """A job, for a dictionary."""
    return rule, frozenset(wildcards.items())


@dataclass(frozen=True)
class Passes:
    """What passes of one network take.

    Attributes:
        measured: What was measured, and how: `fingerprint`.
        n_parameters: N.
        activations: Numbers in all results of one image's forward pass: a.
        image: Numbers in one image.
        n_images: Images that curvature is taken over.
        n_test_images: Test images of slices.
        n_train, n_test: Images of the data.
        batch: Most images of one pass: b; `precise_batch` of one in float64.
        vectorised: Points and vectors go through one pass side by side.
        seconds: By kind of pass (`analyses.registry`); "start" is that of an objective.
    """

    measured: str
    n_parameters: int
    activations: int
    image: int
    n_images: int
    n_test_images: int
    n_train: int
    n_test: int
    batch: int
    precise_batch: int
    vectorised: bool
    seconds: Mapping[str, Affine]

    def seconds_of(self, kind: str, n_images: float) -> float:
        """Of one pass of this kind over so many images."""
        over, _, kind = kind.rpartition(" ")
        if kind in ("epoch", "record"):
            return self.seconds[kind][0]
        if kind == "diagonal":
            return self.n_parameters * self.seconds_of("derivatives", n_images)
        n = {"test": self.n_test_images, "all": self.n_train + self.n_test}.get(over, n_images)
        of_batch, of_image = self.seconds[kind]
        batch = self.precise_batch if kind.startswith("precise_") else self.batch
        return math.ceil(n / batch) * of_batch + n * of_image

    def numbers_of(self, kind: str, count: float, n_images: float) -> float:
        """Numbers that so many passes of this kind hold at once, beside the network and the data.

        `Objective` documents bounds; these are what was measured of ResNet-56 and DenseNet-121.
        Whatever is differentiated once or twice holds about as much of a pass: the self-test of the
        objective has differentiated in every way before.
        """
        kind = kind.rpartition(" ")[2].removeprefix("precise_")
        kind = "derivatives" if kind == "diagonal" else kind
        n, k = self.n_parameters, min(AT_ONCE, count) if kind.endswith("s") else 1
        of_a_pass = self.activations * min(n_images, self.batch) * (k if self.vectorised else 1)
        return {
            "value": (2 * k + 2) * n + 0.1 * of_a_pass,
            "gradient": 4 * n + 2.2 * of_a_pass,
            "product": (2.5 * k + 6) * n + 2.2 * of_a_pass,
            "derivative": (2 * k + 3) * n + 2.2 * of_a_pass,
        }[kind.removesuffix("s")]


def predicted(
    settings: Mapping[str, Any],
    known: Mapping[str, Passes],
    rule: str,
    wildcards: Mapping[str, str],
) -> Estimate | None:
    """What a job takes; None where the passes of its network are not known.

    `known` are passes by name of the network, or of the analysis that trains its own (`read`).
    """
    network = wildcards.get("network", "")
    if rule in ("train_network", "import_checkpoint"):
        passes = known.get(network)
        training = settings["networks"][network]["training"]
        return None if passes is None else _of_weights(training, passes)
    name = rule.removesuffix("_shard")
    if name not in (*registry.OF_NETWORKS, *registry.OF_PROFILES):
        return _beyond(DRAWING)
    analysis = registry.analysis(name)
    own = (settings["networks"][network] if network else settings)["analyses"][name]
    if analysis.n_shards(own) is not None and rule == name:
        return _beyond(DRAWING, *analysis.takes(own, "gather"))
    seconds, size = analysis.takes(own, "run")
    if counts := {kind: count for kind, count in analysis.passes(own).items() if count}:
        if (passes := known.get(network or name)) is None:
            return None
        n_images = analysis.n_images(own, wildcards.get("part", "")) or passes.n_images
        seconds += sum(count * passes.seconds_of(kind, n_images) for kind, count in counts.items())
        n_vectors = sum(count for kind, count in counts.items() if kind.endswith("s"))
        seconds += VECTOR * passes.n_parameters * n_vectors
        seconds += passes.seconds["start"][0]
        most = max(
            passes.numbers_of(kind, count, n_images)
            for kind, count in counts.items()
            if kind not in ("epoch", "record")
        )
        held = (2 + analysis.vectors(own)) * passes.n_parameters
        size += (4 if settings["precision"] == "float32" else 8) * (most + held) + _data(passes)
    return _beyond(COMPUTING, seconds, size)


def _of_weights(training: Mapping[str, Any] | None, passes: Passes) -> Estimate:
    """Of training a network, or of reading its weights and scoring them."""
    if training is None:
        seconds = passes.seconds_of("value", passes.n_test)
        return _beyond(COMPUTING, seconds, 4 * 4 * passes.n_parameters + _data(passes))
    records = 1 + training["epochs"] // training["history_every"]
    seconds = training["epochs"] * passes.seconds["epoch"][0]
    seconds += records * passes.seconds["record"][0]
    batch = min(training["batch_size"] or passes.n_train, passes.n_train)
    # What a step keeps for its gradient is in the precision of its products.
    kept = passes.activations * batch * (2 if training["mixed_precision"] else 4)
    # It has copies of the training images, in the order of an epoch.
    return _beyond(COMPUTING, seconds, 16 * passes.n_parameters + kept + 3 * _data(passes))


def _data(passes: Passes) -> float:
    """Bytes of the images."""
    return 4 * passes.image * (passes.n_train + passes.n_test)


def _beyond(process: tuple[float, float], seconds: float = 0.0, size: float = 0.0) -> Estimate:
    return Estimate(process[0] + seconds, round(process[1] + size))


def jobs(settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every job of a profile that computes from scratch, as rule and wildcards."""
    for network, own in settings["networks"].items():
        rule = "import_checkpoint" if own["training"] is None else "train_network"
        yield rule, {"network": network}
        for name in own["analyses"]:
            yield from _of_analysis(name, own["analyses"][name], {"network": network})
    for name in registry.OF_PROFILES:
        if name in settings["analyses"]:
            yield from _of_analysis(name, settings["analyses"][name], {})


def _of_analysis(
    name: str, own: dict[str, Any], place: dict[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    analysis = registry.analysis(name)
    for part in analysis.parts(own):
        wildcards = place | ({"part": part} if part else {})
        if (n_shards := analysis.n_shards(own)) is not None:
            for shard in range(n_shards):
                yield f"{name}_shard", wildcards | {"shard": str(shard)}
        yield name, wildcards


def path_of(profile: str) -> Path:
    """Where the measured passes of a profile are kept."""
    return Path("results/computed") / profile / "passes.json"


def read(settings: Mapping[str, Any]) -> dict[str, Passes]:
    """Passes of the profile's networks that were measured with these settings, by name.

    Raises ArtifactError where the file is not what `measure` writes.
    """
    path = path_of(settings["profile"])
    if not path.exists():
        return {}
    try:
        known = {name: Passes(**passes) for name, passes in artifacts.read_json(path).items()}
    except (TypeError, AttributeError) as error:
        raise artifacts.ArtifactError(f"{path} is corrupt; delete it") from error
    named = dict(subjects(settings))
    return {
        name: passes
        for name, passes in known.items()
        if name in named and passes.measured == fingerprint(settings, named[name])
    }


def measure(settings: Mapping[str, Any], folder: Path) -> dict[str, Passes]:
    """Passes of all the profile's networks: those that are known, and the others, measured here.

    They are kept for the next time. What two networks have in common is measured once.
    """
    known = read(settings)
    alike = {passes.measured: passes for passes in known.values()}
    for name, subject in subjects(settings):
        key = fingerprint(settings, subject)
        if name in known:
            continue
        if key not in alike:
            with about(f"{name} (data {subject['data']})"):
                alike[key] = _measured(settings, subject, folder, key)
        known[name] = alike[key]
        content = {name: asdict(passes) for name, passes in known.items()}
        artifacts.write_json(path_of(settings["profile"]), content)
    return known


def subjects(settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured, by name: networks, and the network of an analysis that trains its own."""
    kept = ("data", "loss", "model", "n_images", "batch_size", "training", "checkpoint")
    for name, network in settings["networks"].items():
        yield name, {key: network[key] for key in kept}
    for name in registry.OF_PROFILES:
        analysis = registry.analysis(name)
        if name in settings["analyses"] and analysis.passes(settings["analyses"][name]):
            yield name, analysis.typical(settings["analyses"][name])


def fingerprint(settings: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    """What a measurement depends on, as a sha256."""
    training = subject["training"] or {}
    timed = ("batch_size", "augmentation", "mixed_precision")
    depends = {
        **subject,
        "checkpoint": None,
        "training": {key: training[key] for key in timed if key in training},
        "data": settings["data"][subject["data"]],
        **{key: settings[key] for key in ("device", "precision", "threads")},
    }
    return hashlib.sha256(to_json(depends).encode()).hexdigest()


def _measured(
    settings: Mapping[str, Any], subject: Mapping[str, Any], folder: Path, key: str
) -> Passes:
    import torch

    from hessian_directions.analyses import problem
    from hessian_directions.geometry.directions import gaussian
    from hessian_directions.traces.finite_differences import in_float64

    torch.set_num_threads(settings["threads"])
    # What else the machine does takes no processor time of ours.
    is_alone = settings["device"] == "cpu" and settings["threads"] == 1
    clock = time.process_time if is_alone else time.perf_counter
    network = {**subject, "data_settings": settings["data"][subject["data"]]}
    common = {key: settings[key] for key in ("seed", "device", "precision", "cache")}
    studied = problem.load(network, **common, folder=folder)
    training = subject["training"]
    seconds = _training_seconds(studied, training, clock) if training else {}
    whole = studied.objective("train")
    started = clock()
    whole.self_test()
    seconds["start"] = (clock() - started, 0.0)
    precise = in_float64(whole)
    k = AT_ONCE if whole.vectorised else FEW
    V = gaussian(whole.n_parameters, k, 0, whole.dtype, whole.device) * 1e-3
    for prefix, objective, kinds in (("", whole, KINDS), ("precise_", precise, PRECISE)):
        if prefix and precise is whole:
            seconds |= {prefix + kind: seconds[kind] for kind in kinds}
            break
        b = min(objective.samples_at_once, objective.n_samples)
        sizes = sorted({max(1, b // 4), b})
        of_sizes = [_pass_seconds(objective.subset(range(n)), V, kinds, clock) for n in sizes]
        for kind in kinds:
            seconds[prefix + kind] = _line(sizes, [of[kind] for of in of_sizes])
    return Passes(
        measured=key,
        n_parameters=whole.n_parameters,
        activations=_activations(studied),
        image=studied.dataset.train.inputs[0].numel(),
        n_images=whole.n_samples,
        n_test_images=len(studied.split("test")),
        n_train=len(studied.dataset.train),
        n_test=len(studied.dataset.test),
        batch=whole.samples_at_once,
        precise_batch=precise.samples_at_once,
        vectorised=whole.vectorised,
        seconds=seconds,
    )


def _pass_seconds(objective: Any, V: Any, kinds: Sequence[str], clock: Clock) -> dict[str, float]:
    """Of one pass of each kind; of many that are made together, the share of one."""
    V = V.to(objective.dtype)
    v, near = V[:, 0], objective.theta[:, None] + V
    passes: dict[str, Callable[[], Any]] = {
        "value": objective.value,
        "gradient": objective.gradient,
        "product": partial(objective.hessian_vector_product, v),
        "derivative": partial(objective.second_directional_derivative, v),
        "values": partial(objective.values, near),
        "products": partial(objective.hessian_vector_product, V),
        "derivatives": partial(objective.second_directional_derivative, V),
    }
    return {
        kind: _shortest(passes[kind], clock) / (V.shape[1] if kind.endswith("s") else 1)
        for kind in kinds
    }


def _shortest(compute: Callable[[], Any], clock: Clock) -> float:
    """The shortest of some passes: what else the machine does only makes them longer."""
    first = seconds_of(compute, clock)  # warms up, which does not count in a long one
    taken = [first] if first > 10 * LONG_ENOUGH else []
    while sum(taken) < LONG_ENOUGH:
        taken.append(seconds_of(compute, clock))
    return min(taken)


def _line(sizes: list[int], taken: list[float]) -> Affine:
    """Seconds of a batch and of each image in it; neither is negative."""
    (n, long), (m, short) = (sizes[-1], taken[-1]), (sizes[0], taken[0])
    slope = (long - short) / (n - m) if n > m else 0.0
    slope = min(max(slope, 0.0), long / n)
    return long - slope * n, slope


def _activations(studied: Any) -> int:
    """Numbers in all results of one image's forward pass: those of the modules without parts."""
    import torch

    total = 0

    def watch(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, torch.Tensor):
            total += output.numel()

    model = studied.model.eval()
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch) for module in leaves]
    # Group normalisation of one value a group refuses a single image.
    two = studied.dataset.train.take(slice(2)).inputs_on(studied.device, studied.dtype)
    with torch.no_grad():
        model(two)
    for handle in handles:
        handle.remove()
    return total // len(two)


def _training_seconds(studied: Any, training: Any, clock: Clock) -> dict[str, Affine]:
    """Of an epoch, and of a record of its history, from epochs of two batches."""
    from hessian_directions.learning.training import evaluate, train

    data = studied.dataset
    batch = min(training["batch_size"] or len(data.train), len(data.train))
    few = data.train.take(range(min(2 * batch, len(data.train))))

    def epochs(n: int) -> float:
        """Seconds of so many, and of a record."""
        own = {"epochs": n, "history_every": n, "snapshots": 0, "label_noise": 0.0}
        model, settings = copy.deepcopy(studied.model), {**training, **own, "target_loss": None}
        device = studied.device
        marks: list[float] = []

        def mark(status: Any) -> None:
            marks.append(clock())

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training itself says where it is in float32 instead
            train(model, studied.loss, few, None, settings, seed=0, device=device, progress=mark)
        return marks[-1] - marks[0]

    evaluate(studied.model, studied.loss, few)  # warms up
    started = clock()
    evaluate(studied.model, studied.loss, few)
    record = clock() - started
    n, taken = 1, epochs(1)
    while taken < LONG_ENOUGH + record and n < 10_000:
        n *= 4
        taken = epochs(n)
    all_images = len(data.train) + len(data.test)
    return {
        "epoch": ((taken - record) / n * len(data.train) / len(few), 0.0),
        "record": (record * all_images / len(few), 0.0),
    }


def stages(
    settings: Mapping[str, Any], known: Mapping[str, Passes]
) -> dict[tuple[str, str], Estimate]:
    """What every stage of every network takes, by network ("" for none) and rule.

    Seconds are the sum of its jobs', memory is the largest of them. Stages whose passes are not
    known are left out.
    """
    return by_stage((*job, predicted(settings, known, *job)) for job in jobs(settings))


def by_stage(
    jobs: Iterable[tuple[str, Mapping[str, str], Estimate | None]],
) -> dict[tuple[str, str], Estimate]:
    """The same from what single jobs take, by rule and wildcards."""
    found: dict[tuple[str, str], Estimate] = {}
    for rule, wildcards, job in jobs:
        if job is not None:
            stage = wildcards.get("network", ""), rule
            found[stage] = found.get(stage, Estimate()) + job
    return found


def describe(found: Mapping[tuple[str, str], Estimate]) -> list[str]:
    """A line for every network, the longest first, with all its stages."""
    networks: dict[str, dict[str, Estimate]] = {}
    for (network, rule), stage in found.items():
        networks.setdefault(network or "beside the networks", {})[rule] = stage
    whole = {name: sum(of.values(), Estimate()) for name, of in networks.items()}
    lines = []
    for name, all_of_it in sorted(whole.items(), key=lambda item: -item[1].seconds):
        longest = sorted(networks[name].items(), key=lambda item: -item[1].seconds)
        parts = ", ".join(f"{rule} {duration(stage.seconds)}" for rule, stage in longest)
        size = f"{all_of_it.bytes / 1e9:.1f} GB"
        lines.append(f"  {name}: {duration(all_of_it.seconds)}, {size} ({parts})")
    return lines
