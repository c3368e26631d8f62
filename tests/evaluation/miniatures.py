"""Published data sets in miniature: the photos of the suite's folder, laid out as each publisher lays out its own."""

import csv
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.recipes import load_recipe

RANKS = ("kingdom", "phylum", "cls", "order", "family", "genus", "species", "common_name")
SPECIES = (
    ("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corax", "Common Raven"),
    ("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica", "Eurasian Magpie"),
    ("Animalia", "Chordata", "Mammalia", "Carnivora", "Canidae", "Canis", "lupus", "Gray Wolf"),
    ("Animalia", "Chordata", "Mammalia", "Carnivora", "Felidae", "Panthera", "leo", "Lion"),
)
PER_CLASS = 7


class Shelf:
    """Gives out small copies of the photos in `folder`, again from the first where they run out."""

    def __init__(self, folder: Path):
        found = sorted(
            path for path in (folder / "images").rglob("*") if path.suffix.lower() in (".jpg", ".png", ".webp")
        )
        self.photos = cycle([self._small(path) for path in found[:40]])

    @staticmethod
    def _small(path: Path) -> bytes:
        with Image.open(path) as image:
            written = io.BytesIO()
            image.convert("RGB").resize((24, 24)).save(written, "JPEG", quality=90)
        return written.getvalue()

    def put(self, path: Path) -> None:
        """Writes the next photo, as PNG where the name asks for it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = next(self.photos)
        if path.suffix == ".png":
            with Image.open(io.BytesIO(data)) as image:
                image.save(path)
        else:
            path.write_bytes(data)


def write_table(path: Path, columns: tuple[str, ...], rows: list[tuple], *, index: bool = True) -> None:
    """A CSV file as pandas writes it, by default with a first column that has no name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("", *columns) if index else columns)
        table.writerows((number, *row) if index else row for number, row in enumerate(rows))


def annotated(root: Path, shelf: Shelf, classes: tuple[str, ...], images: str, suffix: str = "jpg") -> None:
    """`metadata.csv` with filepath and class beside `images`/<class>/<file>."""
    rows = [(f"{name}/{number}.{suffix}", name) for name in classes for number in range(PER_CLASS)]
    for file, _ in rows:
        shelf.put(root / images / file)
    write_table(root / "metadata.csv", ("filepath", "class"), rows)


def nabirds(root: Path, shelf: Shelf) -> None:
    rows = []
    for place, name in enumerate(("Oak Titmouse", "Ovenbird", "Snow Goose")):
        rows += [(f"{place + 817:04}/{name[:2].lower()}{number}.jpg", name) for number in range(PER_CLASS)]
    for file, _ in rows:
        shelf.put(root / "images" / file)
    write_table(root / "metadata.csv", ("filepath", "class"), rows)


def nabirds_archive(root: Path, shelf: Shelf) -> None:
    """The archive alone, without BioCLIP's table."""
    nabirds(root, shelf)
    rows = list(csv.reader((root / "metadata.csv").read_text().splitlines()))[1:]
    names = list(dict.fromkeys(row[2] for row in rows))
    (root / "classes.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names)))
    (root / "images.txt").write_text("".join(f"id-{row[0]} {row[1]}\n" for row in rows))
    (root / "image_class_labels.txt").write_text("".join(f"id-{row[0]} {names.index(row[2])}\n" for row in rows))
    (root / "metadata.csv").unlink()


def meta_album(classes: tuple[str, ...], suffix: str = "jpg") -> Callable[[Path, Shelf], None]:
    return lambda root, shelf: annotated(root, shelf, classes, "val", suffix)


def meta_album_own(root: Path, shelf: Shelf) -> None:
    """Meta-Album's own layout."""
    rows = [(f"{name}_{number}.jpg", name, "") for name in ("Apidae", "Vespidae") for number in range(PER_CLASS)]
    for file, *_ in rows:
        shelf.put(root / "images" / file)
    write_table(root / "labels.csv", ("FILE_NAME", "CATEGORY", "SUPER_CATEGORY"), rows, index=False)


def rare_species(root: Path, shelf: Shelf) -> None:
    rows = []
    for page, ranks in enumerate(SPECIES):
        files = [f"2024-03-20/{number}_{page}_eol-full-size-copy.jpg" for number in range(PER_CLASS)]
        rows += [(*ranks, file, f"{ranks[5]} {ranks[6]}") for file in files]
    for row in rows:
        shelf.put(root / row[-2])
    write_table(root / "metadata.csv", (*RANKS, "filepath", "class"), rows)


def camera_trap(subset: str, suffix: str = "png") -> Callable[[Path, Shelf], None]:
    def make(root: Path, shelf: Shelf) -> None:
        rows = []
        for place, ranks in enumerate(SPECIES):
            rows += [(f"{place}-{number}.{suffix}", *ranks, f"{ranks[5]} {ranks[6]}") for number in range(PER_CLASS)]
        if subset == "island":
            chick = ("Animalia", "Chordata", "Aves", "NA", "None", "", "", "petrel chick")
            rows.append((f"9-0.{suffix}", *chick, ""))
        for row in rows:
            shelf.put(root / "data" / "test" / subset / row[0])
        write_table(root / f"{subset}-balanced.csv", ("filepath", *RANKS, "scientific_name"), rows)

    return make


def camera_traps(root: Path, shelf: Shelf) -> None:
    for subset in ("desert-lion", "ENA24", "island", "orinoquia", "ohio-small-animals"):
        camera_trap(subset, "jpg" if subset.startswith("ohio") else "png")(root, shelf)


def newt(root: Path, shelf: Shelf) -> None:
    rows = []
    for task in ("fgvc_ravens", "age_eagles"):
        for split, count in (("train", 10), ("test", 6)):
            labels = [number % 2 for number in range(count)]
            rows += [
                (f"{task}_{split}_{number}", label, split, task, task.split("_", maxsplit=1)[0], task)
                for number, label in enumerate(labels)
            ]
    for row in rows:
        shelf.put(root / "newt2021_images" / f"{row[0]}.jpg")
    columns = ("id", "label", "split", "task", "task_cluster", "task_subcluster")
    write_table(root / "newt2021_labels.csv", columns, rows, index=False)


def fishnet(root: Path, shelf: Shelf) -> None:
    """Columns where the publisher has them: the path fourth, the folder thirteenth, labels from the fifteenth on."""
    traits = ("FeedingPath", "Tropical", "Temperate", "Subtropical", "Boreal", "Polar")
    columns = ("", "Species", "Genus", "image", "Family", "Order", "Class", "a", "b", "c", "d", "e", "Folder", "f")
    for split, count in (("train", 24), ("test", 8)):
        rows = []
        for number in range(count):
            pelagic = number % 2
            labels = ["pelagic" if pelagic else "benthic", pelagic, 1 - pelagic, 1, 0, 0, pelagic, 1 - pelagic, 0]
            if number == 3:
                labels[4] = ""
            path = f"some/where/{split}_{number}.jpg"
            species = ("Salmo salar", "Gadus morhua")[pelagic]
            row = [number, species, species.split()[0], path, "F", "O", "C", 1, 2, 3, 4, 5, f"folder{number % 3}", ""]
            rows.append((*row, *labels))
            shelf.put(root / "Image_Library" / f"folder{number % 3}" / f"{split}_{number}.jpg")
        write_table(
            root / f"{split}.csv", (*columns, *traits, "freshwater", "saltwater", "brackish"), rows, index=False
        )


def awa2(root: Path, shelf: Shelf) -> None:
    names = ("antelope", "grizzly+bear", "killer+whale", "beaver")
    for name in names:
        for number in range(5):
            shelf.put(root / "JPEGImages" / name / f"{name}_{number}.jpg")
    (root / "classes.txt").write_text("".join(f"{number + 1:8}\t{name}\n" for number, name in enumerate(names)))
    (root / "trainclasses.txt").write_text("antelope\ngrizzly+bear\nkiller+whale\n")
    (root / "testclasses.txt").write_text("beaver\n")
    matrix = np.random.default_rng(0).integers(0, 2, (4, 85))
    (root / "predicate-matrix-binary.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in matrix))


def herbarium19(root: Path, shelf: Shelf) -> None:
    for place in range(5):
        for number in range(6):
            shelf.put(root / "small-train" / str(place) / f"{number}.jpg")
    with (root / "herbarium_19_class_splits.pkl").open("wb") as file:
        pickle.dump({"Old": [3, 0, 1], "New": [2, 4]}, file)


def herbarium19_json(root: Path, shelf: Shelf) -> None:
    herbarium19(root, shelf)
    (root / "herbarium_19_class_splits.pkl").unlink()
    (root / "herbarium_19_class_splits.json").write_text(json.dumps({"Old": ["3", "0", "1"], "New": ["2", "4"]}))


def plantdoc(root: Path, shelf: Shelf) -> None:
    for split in ("train", "test"):
        for name in ("Apple Scab Leaf", "Corn rust leaf", "grape leaf"):
            for number in range(4):
                shelf.put(root / split / name / f"{number}.jpg")
    shelf.put(root / "train" / "Tomato two spotted spider mites leaf" / "0.jpg")


def photo_classes(root: Path, shelf: Shelf) -> None:
    rows = []
    for place, ranks in enumerate(SPECIES):
        for number in range(2 * PER_CLASS):
            split = "train" if number < PER_CLASS else "test"
            rows.append((f"{place}/{number}.jpg", split, *ranks))
    for file, *_ in rows:
        shelf.put(root / "images" / file)
    write_table(root / "photos.csv", ("filepath", "split", *RANKS), rows, index=False)


def tfds_labels(directory: Path, shelf: Shelf) -> None:
    """A dataset as TFDS prepares it: images with a label, in ArrayRecord files; one example has no label."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    directory.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name="labels", filetype_suffix="array_record", split="train"
    )
    infos = []
    for split, labels in (("train", (0, 1) * 8), ("test", (0, 1) * 7 + (-1,))):
        writer = ArrayRecordWriter(str(directory / f"labels-{split}.array_record-00000-of-00001"), "group_size:1")
        for label in labels:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(next(shelf.photos))
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[len(labels)], num_bytes=1, filename_template=template.replace(split=split)
            )
        )
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["Tomato___Late_blight", "001.Abies_alba"]),
    }
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=tfds.features.FeaturesDict(features),
        split_infos=infos,
        check_data=False,
        supervised_keys=("image", "label"),
    )


MINIATURES: dict[str, Callable[[Path, Shelf], None]] = {
    "nabirds": nabirds,
    "plankton": meta_album(("Emiliania_huxleyi", "mix_elongated"), "png"),
    "insects": meta_album_own,
    "insects2": meta_album(("Lycorma delicatula", "Apis mellifera")),
    "plantnet": meta_album(("Lamium_galeobdolon", "Poa_annua")),
    "fungi": meta_album(("Amanita excelsa Gonn. & Rabenh.", "Agaricus impudicus (Rea) Pilát")),
    "plantvillage": meta_album(("Tomato___Late_blight", "Tomato___healthy")),
    "medicinal_leaf": meta_album(("Piper Betle (Betel)", "Mentha (Mint)")),
    "plantdoc_mini": meta_album(("Corn Leaf Blight", "Cherry Leaf")),
    "rare_species": rare_species,
    "desert_lion": camera_trap("desert-lion"),
    "ena24": camera_trap("ENA24"),
    "island": camera_trap("island"),
    "orinoquia": camera_trap("orinoquia"),
    "ohio_small_animals": camera_trap("ohio-small-animals", "jpg"),
    "camera_traps": camera_traps,
    "newt": newt,
    "fishnet": fishnet,
    "awa2": awa2,
    "herbarium19": herbarium19,
    "plantdoc": plantdoc,
    "photo_classes": photo_classes,
}
"""Recipe -> what writes its data set in miniature into an empty folder."""


def make_all(folder: Path, photos: Path) -> Iterator[str]:
    """Writes every miniature into `folder`/NAME, and gives the names."""
    shelf = Shelf(photos)
    for name, make in MINIATURES.items():
        (folder / name).mkdir(parents=True)
        make(folder / name, shelf)
        yield name


def recipe(name: str, root: Path) -> TaskBenchmark:
    """The benchmark of a built-in recipe on the files in `root`."""
    return load_recipe("evals", name).benchmark(str(root))


def copy(miniatures: Path, name: str, folder: Path) -> Path:
    """A copy of one of the miniatures in `folder`, to be spoilt."""
    return Path(shutil.copytree(miniatures / name, folder / name))
