"""The model card says what is known, with intervals, and no string of data can be anything but text in it."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from bioclip_jax.config import TrainConfig
from bioclip_jax.convert.card import Accuracy, Provenance, model_card
from bioclip_jax.convert.weights import Source, TreeWeights

pytestmark = pytest.mark.core

ACCURACY = Accuracy("synthetic", "abcdef" * 10, "unseen", "genus", "balanced_accuracy", 0.8312, 0.625, 0.992, 0.25, 4)


def card(small, provenance, to="open_clip", where="folder/small"):
    from bioclip_jax.config import Preprocessing

    weights = TreeWeights({"logit_scale": np.float32(4)})
    source = Source(where, "a test", small, Preprocessing(), weights, where.partition("/")[2])
    return model_card(source, to, "float32", provenance)


def head(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_of_a_run_says_how_it_was_trained_and_how_good_it_is(small):
    training = json.loads(json.dumps(dataclasses.asdict(TrainConfig())))
    text = card(
        small, Provenance(training, 900, "", "demo", "0123abcd", "fedc", (ACCURACY,), ("A. Author 2025",), "mit")
    )
    assert head(text)["license"] == "mit"
    assert head(text)["library_name"] == "open_clip"
    assert "# small\n" in text
    assert "Step 900 of a run that started from scratch" in text
    assert "The logit scale is 54.5982." in text
    assert '"learning_rate": 0.0001' in text
    assert "manifest hash `0123abcd`" in text
    assert "| synthetic | unseen | genus | balanced accuracy | 83.1 (62.5 to 99.2) | 25.0 | 4 |" in text
    assert "A. Author 2025" in text
    assert "0.48145466, 0.4578275, 0.40821073" in text
    assert "2023" not in text


def test_a_card_of_unknown_weights_claims_nothing(small):
    text = card(small, Provenance())
    assert "license" not in head(text)
    assert "Not stated" in text
    assert "Not known here" in text
    assert "No results of these weights" in text
    assert "Gu, Jianyang" not in text
    assert head(text)["tags"] == ["clip"]


def test_a_card_says_what_a_run_started_from(small):
    text = card(small, Provenance({}, 5, "hf-hub:someone/base@v1"))
    assert "a run that started from the weights of hf-hub:someone/base@v1" in text
    assert head(text)["base_model"] == "someone/base"
    assert "continual_proj" not in text


@pytest.mark.parametrize("to", ["open_clip", "hugging_face", "orbax", "onnx"])
def test_every_format_says_how_it_is_opened(small, to):
    assert "path/of/this/folder" in card(small, Provenance(), to)


def test_strings_of_data_are_only_text(small):
    evil = "x](javascript:1) | `a` <script>alert(1)</script>\n# Title\n---\nlicense: mit"
    accuracy = dataclasses.replace(ACCURACY, benchmark=evil, split=evil)
    provenance = Provenance({"data": {"dataset": evil}}, 1, evil, evil, "a", "b", (accuracy,), (evil,))
    text = card(small, provenance, where=f"a/{evil}")
    code = [line for line in text.splitlines() if line.startswith("    ")]
    outside = [line for line in text.splitlines() if not line.startswith("    ")]
    assert any("<script>" in line for line in code)
    assert not any("<script>" in line or line.startswith(("# Title", "license")) for line in outside)
    assert text.count("\n---\n") == 1
    rows = [line for line in text.splitlines() if "83.1" in line]
    assert [line.replace("\\|", "").count("|") for line in rows] == [8]
