"""A run's weights carry what is known of them into the card of their export, and no more than that."""

import json
from dataclasses import fields

import pytest
import yaml

from bioclip_jax.cli import main
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Measurement, Run
from bioclip_jax.inference.provenance import _accuracies


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.slow
def test_a_converted_run_has_its_results_in_the_card(tmp_path, capsys):
    config = """
from bioclip_jax.config import *
config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 1, 2), TextConfig(width=32, layers=1, heads=2)),
    data=DataConfig(dataset=__file__.replace("small.py", "data")), global_batch_size=16, total_steps=2, dtype="float32",
)
"""
    (tmp_path / "small.py").write_text(config)
    world = ["--num-images", "40", "--num-species", "20", "--image-size", "32", "--test-images-per-species", "2"]
    main(["data", "build", "synthetic", str(tmp_path / "data"), "--name", "drawn", *world])
    run = tmp_path / "run"
    main(["train", str(tmp_path / "small.py"), "--work-dir", str(run)])
    rest = ["--resamples", "20", "--no-few-shot", "--no-baseline"]
    main(["eval", str(run), "synthetic", "--root", str(tmp_path / "data"), *rest])
    main(["convert", str(run), str(tmp_path / "out"), "--to", "hugging_face", "--license", "cc0-1.0"])
    text = (tmp_path / "out" / "README.md").read_text()
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert f"Dataset: drawn, manifest hash `{manifest['hash']}`" in text
    assert "Step 2 of a run" in text
    assert "| seen | species | balanced accuracy |" in text
    assert head(text)["license"] == "cc0-1.0"
    assert str(tmp_path) not in text

    with pytest.raises(SystemExit):
        main(["convert", str(run), str(tmp_path / "out"), "--to", "orbax", "--overwrite", "--license", "a\nb: c"])
    assert "--license 'a\\nb: c': expected an SPDX identifier" in capsys.readouterr().err

    # Results of other weights are not this model's.
    main(["train", str(tmp_path / "small.py"), "--work-dir", str(tmp_path / "other"), "--seed", "7"])
    (tmp_path / "other" / "results.sqlite").write_bytes((run / "results.sqlite").read_bytes())
    main(["convert", str(tmp_path / "other"), str(tmp_path / "out2"), "--to", "orbax"])
    assert "No results of these weights" in (tmp_path / "out2" / "README.md").read_text()


def test_runs_of_other_kinds_are_passed_over(tmp_path):
    """Emergent properties have no way of making candidates."""
    texts = {column.name: "{}" for column in fields(Run)}
    run = Run(**{**texts, "weights": "w", "citation": "somebody", "seconds": 1.0})
    with Results(tmp_path / "results.sqlite", create=True) as results:
        results.add(Measurement(run, [], [], [], [], [], []))
    assert _accuracies(tmp_path / "results.sqlite", "w") == ((), ("somebody",))
