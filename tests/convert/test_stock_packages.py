"""The stock PyTorch packages open what is written here, and compute what is computed here."""

import json

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, Preprocessing
from bioclip_jax.images import centre_crop_geometry

pytestmark = pytest.mark.usefixtures("as_users_compile")

TEXTS = ["a photo of Corvus corax.", "a photo of Animalia Chordata Aves with common name Écureuil & co."]


@pytest.fixture(scope="module")
def files(photos):
    return sorted((photos / "images").rglob("*.jpg"))[:8]


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.linalg.norm(b)


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def as_pixels(batch, preprocessing):
    """What a PyTorch transform made, as the uint8 photos [n, h, w, 3] that our model takes."""
    mean, std = (np.reshape(x, (3, 1, 1)) for x in (preprocessing.mean, preprocessing.std))
    return np.rint((np.asarray(batch) * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def cuts_the_same(image, size):
    width, height, top, left = centre_crop_geometry(image.width, image.height, size)
    return (top, left) == ((height - size) // 2, (width - size) // 2)


def with_activation(small: CLIPConfig, activation) -> CLIPConfig:
    return CLIPConfig(small.embed_dim, small.vision, small.text, activation)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("geometry", ["center_crop", "squash"])
def test_open_clip_gives_the_same_features_of_the_same_photos(
    tmp_path, open_clip, write, small, files, activation, geometry
):
    import torch

    preprocessing = Preprocessing(geometry=geometry)
    write(tmp_path / "model", config=with_activation(small, activation), preprocessing=preprocessing)
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/model")
    theirs.eval()
    batch = torch.stack([preprocess(PIL.Image.open(file)) for file in files])
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}/model")(TEXTS)
    with torch.no_grad():
        image = theirs.encode_image(batch, normalize=True).numpy()
        text = theirs.encode_text(tokens, normalize=True).numpy()
    ours = bioclip_jax.load(tmp_path / "model")
    assert relative(ours.encode_text(TEXTS), text) <= 1e-5
    # Pillow 13 resizes tall photos vertically first, ours horizontally first as published numbers were made; so the
    # same pixels go to both models here, and the geometry has its own test.
    pixels = as_pixels(batch, preprocessing)
    assert relative(ours.encode_image(pixels), image) <= 1e-5
    assert np.abs(np.stack([ours.preprocess(file) for file in files]).astype(int) - pixels).max() <= 7
    assert ours.logit_scale == pytest.approx(theirs.logit_scale.exp().item(), rel=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(), Preprocessing(geometry="squash", interpolation="bilinear")], ids=str
)
def test_hugging_face_gives_the_same_features_of_the_same_photos(
    tmp_path, open_clip, write, small, files, activation, preprocessing
):
    import torch
    from transformers import CLIPModel, CLIPProcessor

    folder = write(tmp_path / "m", "hugging_face", with_activation(small, activation), preprocessing=preprocessing)
    theirs, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    images = [PIL.Image.open(file).convert("RGB") for file in files]
    inputs = processor(text=TEXTS, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = theirs(**inputs)
    ours = bioclip_jax.load(folder)
    assert relative(ours.encode_text(TEXTS), out.text_embeds.numpy()) <= 1e-5
    pixels = as_pixels(inputs["pixel_values"], preprocessing)
    assert relative(ours.encode_image(pixels), out.image_embeds.numpy()) <= 1e-5
    # Its resizing on tensors rounds otherwise, by a level; Pillow 13 as above; and where it cuts an odd number of
    # pixels off, its centre may be one to the side.
    same = [i for i, image in enumerate(images) if preprocessing.geometry == "squash" or cuts_the_same(image, 32)]
    assert len(same) > 2
    assert np.abs(np.stack([ours.preprocess(files[i]) for i in same]).astype(int) - pixels[same]).max() <= 8
    logits = ours.logit_scale * ours.encode_image(pixels) @ ours.encode_text(TEXTS).T
    assert relative(logits, out.logits_per_image.numpy()) <= 1e-5


def test_hugging_face_computes_the_golden_features_in_float64(tmp_path, open_clip, goldens):
    import torch
    from transformers import CLIPModel

    main(["convert", str(goldens), str(tmp_path / "out"), "--to", "hugging_face"])
    batch = safetensors.numpy.load_file(goldens / "batch.safetensors")
    model = CLIPModel.from_pretrained(tmp_path / "out", dtype=torch.float64, attn_implementation="sdpa").eval()
    with torch.no_grad():
        image = model.get_image_features(torch.from_numpy(batch["image"]).double())
        text = model.get_text_features(torch.from_numpy(batch["tokens"]).long())
    for theirs, golden in ((image, batch["image_features"]), (text, batch["text_features"])):
        assert relative(getattr(theirs, "pooler_output", theirs).numpy(), golden) <= 1e-11


def test_every_automatic_class_opens_the_folder_offline_and_without_a_word(tmp_path, open_clip, write, files, capfd):
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, CLIPModel, pipeline

    folder = write(tmp_path / "model", "hugging_face")
    capfd.readouterr()
    assert isinstance(AutoModel.from_pretrained(folder), CLIPModel)
    assert AutoTokenizer.from_pretrained(folder)("Corvus")["input_ids"][0] == 49406
    assert AutoImageProcessor.from_pretrained(folder).size["shortest_edge"] == 32
    assert AutoProcessor.from_pretrained(folder).tokenizer.model_max_length == 77
    shown = capfd.readouterr().err
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    answers = classify(PIL.Image.open(files[0]).convert("RGB"), candidate_labels=["Corvus corax", "Vulpes vulpes"])
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    assert not [line for line in shown.splitlines() if line and "Loading weights" not in line]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_hugging_face_opens_half_precision_in_its_own_type(tmp_path, open_clip, write, dtype):
    from transformers import CLIPModel

    folder = write(tmp_path / "model", "hugging_face", dtype=dtype)
    assert str(CLIPModel.from_pretrained(folder).dtype) == f"torch.{dtype}"


def test_hugging_face_opens_several_files(tmp_path, open_clip, write):
    import torch
    from transformers import CLIPModel

    from bioclip_jax.convert.files import write_hugging_face
    from bioclip_jax.convert.weights import Cast
    from bioclip_jax.training.sources import open_model

    write(tmp_path / "whole", "hugging_face")
    (tmp_path / "shards").mkdir()
    write_hugging_face(tmp_path / "shards", open_model(tmp_path / "whole")[0], Cast(), shard_bytes=2_000_000)
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    whole, shards = (CLIPModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "shards"))
    assert whole.keys() == shards.keys()
    assert all(torch.equal(whole[key], shards[key]) for key in whole)


def test_models_made_by_transformers_are_read(tmp_path, open_clip):
    """Fields of its config that equal its defaults may be missing; the widths here are those."""
    import torch
    import transformers

    config = transformers.CLIPConfig(
        text_config={"num_hidden_layers": 1, "hidden_act": "gelu"},
        vision_config={"num_hidden_layers": 1, "hidden_act": "gelu", "image_size": 64},
        projection_dim=40,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    ours = bioclip_jax.load(tmp_path)
    mean, std = Preprocessing().mean, Preprocessing().std
    batch = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        image = theirs.get_image_features(batch)
    assert relative(ours.encode_image(pixels), normalised(getattr(image, "pooler_output", image).numpy())) <= 1e-5
    assert (ours.config.text.width, ours.config.vision.patch_size, ours.config.embed_dim) == (512, 32, 40)


def test_defaults_are_those_of_transformers():
    import transformers

    from bioclip_jax.convert import hugging_face

    for ours, theirs in (
        (hugging_face._TEXT, transformers.CLIPTextConfig()),
        (hugging_face._VISION, transformers.CLIPVisionConfig()),
    ):
        assert ours == {name: getattr(theirs, name) for name in ours}
    assert transformers.CLIPConfig().projection_dim == hugging_face._PROJECTION_DIM


def test_old_configs_are_read_as_transformers_reads_them(tmp_path, write):
    """Files of 2022 repeat the towers under text_config_dict and vision_config_dict, and those count."""
    import transformers

    from bioclip_jax.convert.hugging_face import config_from

    old = {
        "model_type": "clip",
        "projection_dim": 1024,
        "text_config": {"hidden_size": 1, "intermediate_size": 5, "num_hidden_layers": 3, "hidden_act": "gelu"},
        "text_config_dict": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
        "vision_config": {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16},
        "vision_config_dict": None,
    }
    theirs = transformers.CLIPConfig.from_dict(json.loads(json.dumps(old)))
    ours = config_from(old, "old")
    for tower, their in ((ours.text, theirs.text_config), (ours.vision, theirs.vision_config)):
        assert (tower.width, tower.layers, tower.heads) == (
            their.hidden_size,
            their.num_hidden_layers,
            their.num_attention_heads,
        )
        assert int(tower.width * tower.mlp_ratio) == their.intermediate_size


def test_every_plain_config_of_open_clip_is_read_and_the_others_are_refused(open_clip):
    import torch

    from bioclip_jax.convert.model_names import _NAME, named_config
    from bioclip_jax.convert.names import expected_shapes
    from bioclip_jax.convert.open_clip import config_from
    from bioclip_jax.errors import UserError

    read, named = [], 0
    for name in open_clip.list_models():
        description = open_clip.get_model_config(name)
        try:
            config = config_from(description, replay_projector=False, where=name)
        except UserError:
            continue
        read.append(name)
        with torch.device("meta"):
            theirs = {key: tuple(value.shape) for key, value in open_clip.CLIP(**description).state_dict().items()}
        assert expected_shapes(config, "open_clip") == theirs, name
        if _NAME.fullmatch(name):
            named += 1
            assert named_config(name, replay_projector=False) == config
    assert {"ViT-B-16", "ViT-L-14-336-quickgelu", "ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-S-16-alt"} <= set(read)
    assert not [name for name in read if "SigLIP" in name or name.startswith(("RN", "coca", "convnext", "EVA"))]
    assert named >= 22


def test_pybioclip_classifies_and_embeds_with_an_export(tmp_path, open_clip, write, files):
    import torch
    from bioclip import CustomLabelsClassifier

    from bioclip_jax.text.templates import TEMPLATES

    folder = write(tmp_path / "model")
    labels = ["Corvus corax", "Vulpes vulpes", "Amanita muscaria"]
    classifier = CustomLabelsClassifier(labels, model_str=f"local-dir:{folder}")
    answers = classifier.predict(str(files[0]))
    ours = bioclip_jax.load(folder)
    prompts = ours.encode_text([template.format(label) for label in labels for template in TEMPLATES[1:]])
    head = normalised(prompts.reshape(len(labels), -1, ours.config.embed_dim).mean(axis=1))
    pixels = classifier.preprocess(PIL.Image.open(files[0]))[None]
    logits = ours.logit_scale * (ours.encode_image(as_pixels(pixels, Preprocessing())) @ head.T)[0]
    expected = dict(zip(labels, torch.softmax(torch.from_numpy(logits), 0).tolist(), strict=True))
    assert {a["classification"]: a["score"] for a in answers} == pytest.approx(expected, rel=1e-4)
    embedded = classifier.create_image_features_for_image(str(files[0]), normalize=True)
    assert relative(ours.encode_image(as_pixels(pixels, Preprocessing())), embedded.numpy()) <= 1e-5
