"""What a run measures while it trains is what `bioclip-jax eval` measures of the same weights, on any mesh."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import bioclip_jax
from bioclip_jax.checkpoints import save_tree
from bioclip_jax.config import (
    CheckpointConfig,
    CLIPConfig,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from bioclip_jax.config_json import to_json
from bioclip_jax.convert.weights import flatten, unflatten
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.measure import Settings, measure
from bioclip_jax.evaluation.measure_tasks import measure_tasks
from bioclip_jax.images import decode
from bioclip_jax.models import clip
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import load_recipe
from bioclip_jax.text.captions import text_type_of_step
from bioclip_jax.training import evaluating
from bioclip_jax.training.data import open_validation
from bioclip_jax.training.evaluating import Evaluation
from bioclip_jax.training.step import make_program

MODEL = CLIPConfig(16, VisionConfig(32, 16, 32, 1, 2), TextConfig(width=32, layers=1, heads=2))
SYNTHETIC = {"num_images": 200, "num_species": 20, "image_size": 32}
CONFIG = TrainConfig(
    MODEL,
    data=DataConfig("synthetic", SYNTHETIC),
    dtype="float32",
    global_batch_size=16,
    total_steps=25,
    evaluation=EvaluationConfig(10, {"synthetic": ""}, max_images=70),
)


def parameters_of(model: CLIPConfig) -> clip.Parameters:
    """Random ones with which photos and texts differ."""
    generator = np.random.default_rng(3)
    shapes = flatten(clip.abstract(model)[1])
    flat = {
        path: np.asarray(generator.normal(0, 0.2, leaf.shape) + path.endswith("scale"), np.float32)
        for path, leaf in shapes.items()
    }
    return unflatten(flat)


PARAMETERS = parameters_of(MODEL)


def make(config: TrainConfig, fsdp: int = 1, console: Console | None = None) -> tuple[Evaluation, clip.Parameters]:
    """An evaluation, and the weights as training would have placed them."""
    mesh = make_mesh(fsdp=fsdp)
    program = make_program(config, mesh, species=7 if config.loss.kind == "species" else 0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state.parameters)
    parameters = PARAMETERS
    if config.loss.kind == "species":
        parameters = {
            **parameters,
            "species": {"kernel": np.ones((16, 7), np.float32), "bias": np.zeros(7, np.float32)},
        }
    weights = jax.device_put(parameters, shardings)
    return Evaluation(config, mesh, program, console or Console(file=io.StringIO())), weights


def with_evaluation(**fields) -> TrainConfig:
    return dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, **fields))


def guarded(evaluation: Evaluation, weights: clip.Parameters, done: int = 10) -> dict[str, float]:
    """As the training loop runs it."""
    with jax.transfer_guard("disallow"):
        return evaluation.run(weights, done)


def by_the_command(work_dir, config: TrainConfig, recipe: str, root: str | None) -> dict[str, float]:
    """What `bioclip-jax eval` finds for the same weights, saved and loaded, under the names used while training."""
    work_dir.mkdir()
    (work_dir / "config.json").write_text(to_json(config))
    save_tree(work_dir / "checkpoints" / "10", {"parameters": PARAMETERS})
    benchmark = load_recipe("evals", recipe).benchmark(root)
    most = config.evaluation.max_images
    limited = dataclasses.replace(benchmark, max_images=most, max_train_images=most)
    found = measure(bioclip_jax.load(work_dir), limited, Settings(baseline=False, resamples=2), cache_folder=None)
    figures = {}
    for figure in found.figures:
        if (figure.protocol, figure.variant) == ("zero_shot", "mean") or figure.protocol == "few_shot":
            protocol = figure.protocol if figure.protocol == "zero_shot" else figure.variant.replace("-", "_")
            end = {"balanced_accuracy": "", "micro_accuracy": "/micro"}.get(figure.metric)
            if end is not None:
                figures[f"{Path(recipe).stem}/{figure.split}/{protocol}/{figure.rank}{end}"] = figure.value
    return figures


@pytest.fixture(scope="module")
def of_synthetic(tmp_path_factory) -> dict[str, float]:
    return by_the_command(tmp_path_factory.mktemp("eval") / "run", CONFIG, "synthetic", None)


@pytest.fixture(scope="module")
def photo_directory(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "photos"
    source = load_recipe("data", "photo_table").source(table=str(photos / "metadata.csv"))
    build(source, folder, name="photos", threads=1, console=Console(file=io.StringIO()))
    return folder


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_figures_are_those_of_the_command_however_the_weights_are_placed(of_synthetic, fsdp):
    evaluation, weights = make(CONFIG, fsdp)
    assert (fsdp > 1) != weights["visual"]["proj"].is_fully_replicated
    figures = guarded(evaluation, weights)
    assert list(figures) == list(evaluation.names())
    assert figures == pytest.approx(of_synthetic)
    assert "synthetic/seen/zero_shot/species" in figures
    assert {"synthetic/unseen/1_shot/family", "synthetic/unseen/1_shot/family/micro"} <= figures.keys()


def test_figures_of_photos_are_those_of_the_command(photo_directory, tmp_path):
    config = with_evaluation(benchmarks={"organisms": str(photo_directory), "photo_table": str(photo_directory)})
    evaluation, weights = make(config, fsdp=2)
    figures = guarded(evaluation, weights)
    expected = by_the_command(tmp_path / "run", config, "organisms", str(photo_directory))
    ours = {name: value for name, value in figures.items() if name.startswith("organisms/")}
    assert ours == pytest.approx(expected)
    for name in (
        "organisms/seen/1_shot/order",
        "photo_table/seen/zero_shot/species/micro",
        "photo_table/unseen/zero_shot/class",
    ):
        assert name in figures
    assert figures["photo_table/seen/zero_shot/class"] == figures["organisms/seen/zero_shot/class"]


def test_the_second_evaluation_compiles_nothing(caplog):
    evaluation, weights = make(with_evaluation(validation_split="test", validation_steps=1))

    def compiled() -> int:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            guarded(evaluation, weights)
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    assert compiled() > 0
    assert compiled() == 0


def test_an_evaluation_is_due_at_its_steps_and_at_the_last_one():
    evaluation, _ = make(CONFIG)
    assert [done for done in range(1, 26) if evaluation.due(done)] == [10, 20, 25]
    never, _ = make(dataclasses.replace(CONFIG, evaluation=EvaluationConfig()))
    assert never.names() == ()
    assert not any(never.due(done) for done in range(1, 26))


def test_photos_that_memory_has_no_room_for_are_decoded_again(of_synthetic, monkeypatch):
    monkeypatch.setattr(evaluating, "KEPT_BYTES", 0)
    evaluation, weights = make(CONFIG)
    first = guarded(evaluation, weights)
    assert guarded(evaluation, weights) == first == pytest.approx(of_synthetic)


RECIPE = '''
"""Drawn organisms as files, and a benchmark of them."""
from pathlib import Path
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.recipes import load_recipe

HERE = Path(__file__).parent


class Files:
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return 40

    def __getitem__(self, index):
        path = HERE / f"{index}.jpg"
        if not path.exists():
            raise RuntimeError(f"{path.name} is gone")
        return {**self.records[index], "image": path.read_bytes()}


def source():
    return {"test": Files(load_recipe("data", "synthetic").source(num_images=40, num_species=5, image_size=32)["test"])}


def benchmark(root=None):
    return Benchmark("files", "", "", "", str(Path(__file__)), splits={"seen": "test"}, train_split=None, few_shot=())
'''


@pytest.fixture
def files(tmp_path):
    """A recipe beside its photos."""
    (tmp_path / "files.py").write_text(RECIPE)
    records = load_recipe("data", "synthetic").source(num_images=40, num_species=5, image_size=32)["test"]
    for index in range(40):
        (tmp_path / f"{index}.jpg").write_bytes(records[index]["image"])
    return tmp_path / "files.py"


def test_photos_that_cannot_be_used_are_counted_and_left_out(files, tmp_path):
    (tmp_path / "7.jpg").write_bytes(b"no image")
    (tmp_path / "9.jpg").write_bytes(b"")
    console = Console(file=io.StringIO(), width=200)
    config = with_evaluation(benchmarks={str(files): ""})
    evaluation, weights = make(config, console=console)
    assert "note: benchmark files: split test: 2 photos cannot be used" in console.file.getvalue()
    expected = by_the_command(tmp_path / "run", config, str(files), None)
    assert guarded(evaluation, weights) == pytest.approx(expected)


def test_a_source_that_fails_is_one_line_at_the_start_and_later(files, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "KEPT_BYTES", 0)
    evaluation, weights = make(with_evaluation(benchmarks={str(files): ""}))
    (tmp_path / "7.jpg").unlink()
    with pytest.raises(UserError, match=r"can no longer be read .*7\.jpg is gone"):
        guarded(evaluation, weights)
    with pytest.raises(UserError, match=r"split 'test', record 7: the source raised RuntimeError: 7\.jpg is gone"):
        make(with_evaluation(benchmarks={str(files): ""}))


def test_features_that_are_not_finite_are_one_line():
    evaluation, weights = make(CONFIG)
    broken = {**weights, "visual": {**weights["visual"], "proj": weights["visual"]["proj"] * np.nan}}
    with pytest.raises(UserError, match="model 'step 10' gives NaN or infinite features for 70 of 70"):
        guarded(evaluation, broken)


def test_validation_is_the_mean_loss_of_whole_held_out_photos():
    config = with_evaluation(benchmarks={}, validation_split="test", validation_steps=3)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, crop_scale=(0.1, 0.2), horizontal_flip=True)
    )
    evaluation, weights = make(config, fsdp=2)
    assert evaluation.names() == ("validation_loss", "validation_accuracy")
    seen, losses = [], evaluation._program.losses

    def observed(parameters, batch):
        seen.append((jax.device_get(batch), jax.device_get(losses(parameters, batch))))
        return losses(parameters, batch)

    evaluation._program = dataclasses.replace(evaluation._program, losses=observed)
    figures = guarded(evaluation, weights)
    assert len(seen) == 3
    for metric in ("loss", "accuracy"):
        expected = np.mean([metrics[metric] for _, metrics in seen])
        assert figures[f"validation_{metric}"] == pytest.approx(expected)
    assert figures["validation_loss"] > 0
    held_out = load_recipe("data", "synthetic").source(**SYNTHETIC)["test"]
    pixels = {decode(held_out[index]["image"]).tobytes() for index in range(len(held_out))}
    shown = [image.tobytes() for batch, _ in seen for image in batch["bio"]["image"]]
    assert len(shown) == 48
    assert set(shown) <= pixels


def test_validation_takes_the_text_type_of_the_batch_index():
    config = with_evaluation(benchmarks={}, validation_split="test", validation_steps=4)
    loader = open_validation(config, make_mesh())
    types = config.data.text_types
    assert [loader.sample.text_type(index) for index in range(4)] == [text_type_of_step(i, types) for i in range(4)]


def test_a_flat_classifier_is_measured_by_few_shot_only():
    console = Console(file=io.StringIO(), width=200)
    config = dataclasses.replace(CONFIG, loss=LossConfig(kind="species"))
    evaluation, weights = make(config, console=console)
    assert console.file.getvalue().count("zero-shot is not measured") == 1
    plain, same = make(CONFIG)
    expected = {name: value for name, value in guarded(plain, same).items() if "zero_shot" not in name}
    assert guarded(evaluation, weights) == pytest.approx(expected)


def test_the_arithmetic_is_that_of_the_run(of_synthetic):
    evaluation, weights = make(dataclasses.replace(CONFIG, dtype="bfloat16"))
    figures = guarded(evaluation, weights)
    assert figures.keys() == of_synthetic.keys()
    text = evaluation._encoder._text_features.lower(weights, np.ones((4, 16), np.int32)).as_text()
    assert "bf16" in text
    assert all(0 <= value <= 1 for value in figures.values())


def test_an_interrupted_evaluation_is_given_up_at_once():
    console = Console(file=io.StringIO(), width=200)
    evaluation, weights = make(CONFIG, console=console)
    asked = iter([False, True])
    assert evaluation.run(weights, 10, interrupted=lambda: next(asked)) == {}
    assert "the evaluation at step 10 was given up" in console.file.getvalue()
    assert guarded(evaluation, weights)


def test_progress_is_a_line_before_and_the_figures_after():
    console = Console(file=io.StringIO(), width=80)
    evaluation, weights = make(
        dataclasses.replace(CONFIG, checkpoint=CheckpointConfig(best_metric="synthetic/seen/1_shot/family/micro")),
        console=console,
    )
    console.file.truncate(0)
    console.file.seek(0)
    figures = guarded(evaluation, weights)
    first, last = console.file.getvalue().splitlines()
    assert first == "evaluating at step 10: benchmark synthetic"
    assert last.startswith("step 10: ")
    for name in ("synthetic/seen/zero_shot/species", "synthetic/seen/1_shot/family/micro"):
        assert f"{name} {figures[name]:.3f}" in last


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_evaluation(benchmarks={"nonesuch": ""}), "evaluation.benchmarks nonesuch: .*nonesuch"),
        (with_evaluation(benchmarks={"organisms": ""}), "evaluation.benchmarks organisms: .* needs its data"),
        (
            with_evaluation(benchmarks={"plantdoc": "/nonesuch"}),
            "evaluation.benchmarks plantdoc: .*/nonesuch is not there",
        ),
        (with_evaluation(benchmarks={"organisms": "/nonesuch"}), "evaluation.benchmarks organisms: .*/nonesuch"),
        (
            with_evaluation(benchmarks={}, validation_split="dev"),
            "validation_split dev: .* 'dev' is not one of train, test",
        ),
        (
            dataclasses.replace(with_evaluation(validation_split="test"), global_batch_size=100_000),
            "validation_split test: global_batch_size 100000 is larger than",
        ),
        (with_evaluation(benchmarks={}), "every_steps is 10, but nothing is to be measured"),
        (
            dataclasses.replace(CONFIG, checkpoint=CheckpointConfig(best_metric="accuracy")),
            "best_metric 'accuracy' is not measured; known: synthetic/seen/zero_shot/kingdom, .*1_shot/species/micro, ",
        ),
        (
            dataclasses.replace(
                CONFIG, evaluation=EvaluationConfig(), checkpoint=CheckpointConfig(best_metric="validation_loss")
            ),
            "'validation_loss' is not measured; known: none, because evaluation.every_steps is 0",
        ),
    ],
    ids=["recipe", "root", "published", "folder", "split", "batch", "nothing", "metric", "never"],
)
def test_what_cannot_be_measured_is_one_line_at_the_start(config, message):
    with pytest.raises(UserError, match=message) as error:
        make(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ('"test_unseen": Files([])', "evaluation.benchmarks .*: .* has no split 'test', only test_unseen"),
        ('"test": []', "evaluation.benchmarks files: its splits test have no photos"),
        ('"test": [{"key": "a", "image": b""}]', "evaluation.benchmarks files: split 'test' has no photo .* 1 empty"),
    ],
    ids=["split", "empty", "unusable"],
)
def test_a_benchmark_without_photos_is_one_line_at_the_start(files, splits, message):
    files.write_text(files.read_text() + f"\n\ndef source():\n    return {{{splits}}}\n")
    with pytest.raises(UserError, match=message) as error:
        make(with_evaluation(benchmarks={str(files): ""}))
    assert "\n" not in str(error.value)


@pytest.fixture
def table_of_photos(photos, tmp_path):
    """A few photos with their names, as `evals/photo_classes.py` reads them."""
    with (photos / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    families = Counter(row["family"] for row in rows if row["family"]).most_common(3)
    rows = [row for family, _ in families for row in [row for row in rows if row["family"] == family][:8]]
    folder = tmp_path / "mine"
    for row in rows:
        copy = folder / row["filepath"]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / row["filepath"], copy)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filepath", "class", "split"])
        writer.writeheader()
        for place, row in enumerate(rows):
            split = "train" if place % 2 else "test"
            writer.writerow({"filepath": row["filepath"], "class": row["family"], "split": split})
    return folder


def test_quick_tasks_of_a_published_benchmark_are_measured_as_by_the_command(table_of_photos, tmp_path):
    config, lines = with_evaluation(benchmarks={"photo_classes": str(table_of_photos)}), io.StringIO()
    evaluation, weights = make(config, console=Console(file=lines))
    figures = guarded(evaluation, weights)
    assert "task linear_probe takes too long" in lines.getvalue()
    run = tmp_path / "run"
    save_tree(run / "checkpoints" / "10", {"parameters": PARAMETERS})
    (run / "config.json").write_text(to_json(config))
    benchmark = load_recipe("evals", "photo_classes").benchmark(str(table_of_photos))
    found = measure_tasks(bioclip_jax.load(run), benchmark, Settings(resamples=2), cache_folder=None)
    asked = {
        f"photo_classes/{f.split}/{f.protocol}/{re.sub('[ ,-]+', '_', f.variant)}/{f.rank}/{f.metric}": f.value
        for f in found.figures
        if f.split != "linear_probe"
    }
    assert figures == pytest.approx(asked, abs=1e-6)


def test_a_benchmark_of_slow_tasks_is_refused_in_one_line(tmp_path):
    for split in ("small-train", "small-validation"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "a.jpg").write_bytes(b"")
    (tmp_path / "herbarium_19_class_splits.json").write_text('{"Old": [0], "New": [1]}')
    with pytest.raises(UserError, match=r"evaluation.benchmarks herbarium19: .* bioclip-jax eval") as error:
        make(with_evaluation(benchmarks={"herbarium19": str(tmp_path)}))
    assert "\n" not in str(error.value)


def test_two_benchmarks_of_one_name_are_refused(files, tmp_path):
    (tmp_path / "more").mkdir()
    other = shutil.copy(files, tmp_path / "more")
    with pytest.raises(UsageError, match="has two called files; rename"):
        make(with_evaluation(benchmarks={str(files): "", str(other): ""}))


PROCESS = """
import dataclasses, io, json, os, sys
import jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import pytest
from rich.console import Console
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel.agreement import gather, together
from tests.training.test_evaluating import CONFIG, make, with_evaluation

assert gather({"from": sys.argv[2], "long": "x" * (1 + 50 * int(sys.argv[2]))}) == [
    {"from": "0", "long": "x"}, {"from": "1", "long": 51 * "x"}
]

def work():
    if sys.argv[2] == "1":
        raise UsageError("the second one fails")
    return 1

try:
    together(work)
except UsageError as error:
    print("error:", error)
evaluation, weights = make(with_evaluation(validation_split="test", validation_steps=1), fsdp=2)
print("figures:", json.dumps(evaluation.run(weights, 10)))
print("interrupted:", json.dumps(evaluation.run(weights, 20, interrupted=lambda: sys.argv[2] == "1")))
"""


@pytest.mark.slow
def test_two_processes_share_the_photos_and_have_the_same_figures(of_synthetic):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [dict(line.split(": ", 1) for line in out.splitlines() if ": " in line) for out in outputs]
    assert [one["error"] for one in lines] == ["the second one fails"] * 2
    assert [one["interrupted"] for one in lines] == ["{}"] * 2
    first, second = (json.loads(one["figures"]) for one in lines)
    assert first == second
    assert first.pop("validation_loss") > 0
    assert first.pop("validation_accuracy") >= 0
    assert first == pytest.approx(of_synthetic)
