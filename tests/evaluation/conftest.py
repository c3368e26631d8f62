"""A world of coloured squares, and a model that sees colours: small enough to evaluate in every test."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask
from bioclip_jax.text.taxonomy import Taxon
from tests.evaluation.miniatures import MINIATURES, make_all

DANGEROUS = '<script>alert("1")</script>'
SPECIES = {
    Taxon("Animalia", "Chordata", "Aves", "Corviformes", "Corvidae", "Corvus", "corax", common_name="raven"): (
        220,
        30,
        30,
    ),
    Taxon("Animalia", "Chordata", "Aves", "Corviformes", "Corvidae", "Corvus", "cornix"): (200, 60, 20),
    Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Canidae", "Canis", "lupus"): (30, 200, 40),
    Taxon("Plantae", "Tracheophyta", "Liliopsida", "Poales", "Poaceae", "Poa", DANGEROUS, common_name="a & <b>b</b>"): (
        30,
        40,
        220,
    ),
    Taxon("Plantae", "Tracheophyta", "Liliopsida", "", "", "Carex", "alba"): (90, 40, 200),
}
RECIPE = '''
"""Records that a test wrote."""
import json
from pathlib import Path

def source(*, folder: str = ".") -> dict:
    """The splits."""
    splits = json.loads((Path(folder) / "splits.json").read_text())
    return {split: Records(Path(folder), rows) for split, rows in splits.items()}

class Records:
    def __init__(self, folder, rows):
        self.folder, self.rows = folder, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {**self.rows[index], "image": (self.folder / self.rows[index]["key"]).read_bytes()}
'''


@dataclass
class ColourModel:
    """Sees the mean colour; knows which colour a name stands for. `blur` mixes in noise that a fixed seed draws."""

    name: str = "colours"
    fingerprint: str = "colours-1"
    logit_scale: float = 20.0
    blur: float = 0.0
    seen: list[int] = field(default_factory=list)

    def preprocess(self, image) -> np.ndarray:
        from bioclip_jax.images import evaluation_image

        return evaluation_image(image, 8)

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(len(images))
        colours = images.reshape(len(images), -1, 3).mean(axis=1) / 255
        noise = np.random.default_rng(0).normal(size=colours.shape)
        return _unit(colours + self.blur * noise)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return _unit(np.stack([self._colour(text) for text in texts]))

    def _colour(self, text: str) -> np.ndarray:
        fitting = [
            np.array(colour) / 255
            for taxon, colour in SPECIES.items()
            if any(name and name in text for name in (taxon.species, taxon.genus, taxon.class_, taxon.kingdom))
        ]
        exact = [np.array(c) / 255 for t, c in SPECIES.items() if t.species in text]
        return np.mean(exact or fitting or [np.ones(3)], axis=0)


def _unit(features: np.ndarray) -> np.ndarray:
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def colour_model() -> type[ColourModel]:
    return ColourModel


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


@pytest.fixture(scope="session")
def coloured_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe `recipe.py` beside the photos of its splits train, test and test_unseen."""
    import json

    folder = tmp_path_factory.mktemp("coloured")
    generator = np.random.default_rng(0)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "test": [], "test_unseen": []}
    for number, (taxon, colour) in enumerate(SPECIES.items()):
        unseen = taxon.species in ("cornix", "alba")
        for split, count in (("train", 0 if unseen else 6), ("test", 0 if unseen else 4), ("test_unseen", 4 * unseen)):
            for photo in range(count):
                key = f"{split}_{number}_{photo}.png"
                pixels = np.clip(generator.normal(colour, 25, (12, 12, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / key)
                ranks = dict(
                    zip(("kingdom", "phylum", "class", "order", "family", "genus", "species"), taxon.ranks, strict=True)
                )
                splits[split].append({"key": key, **ranks, "common_name": taxon.common_name, "scientific_name": ""})
    (folder / "splits.json").write_text(json.dumps(splits))
    (folder / "recipe.py").write_text(RECIPE)
    return folder


@pytest.fixture(scope="session")
def coloured_directory(coloured_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos as a dataset directory with its manifest."""
    from bioclip_jax.pipeline.build import build
    from bioclip_jax.pipeline.readers import open_dataset

    folder = tmp_path_factory.mktemp("built") / "data"
    source = open_dataset(str(coloured_photos / "recipe.py"), {"folder": str(coloured_photos)})
    build(source, folder, name="coloured", threads=1, console=Console(file=io.StringIO()))
    return folder


@pytest.fixture
def benchmark_of():
    """Makes a benchmark of a folder that holds `recipe.py` and its photos, or of a dataset directory."""

    def make(folder: Path, **changes) -> Benchmark:
        values = {
            "name": "coloured",
            "description": "squares",
            "license": "none",
            "citation": "nobody",
            "dataset": str(folder / "recipe.py" if (folder / "recipe.py").exists() else folder),
            "arguments": {"folder": str(folder)} if (folder / "recipe.py").exists() else {},
            "few_shot": (
                FewShotTask("seen", support=("train",), query=("test",)),
                FewShotTask("unseen", support=("test_unseen",), query=("test_unseen",), ranks=("kingdom",)),
            ),
            "shots": (1,),
            **changes,
        }
        return Benchmark(**values)

    return make


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory, photos) -> Path:
    """A folder with each published data set in miniature, under the name of its recipe; not to be changed."""
    folder = tmp_path_factory.mktemp("miniatures")
    assert list(make_all(folder, photos)) == list(MINIATURES)
    return folder
