"""`emergence`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from bioclip_jax.cli.parsing import parse
from bioclip_jax.errors import UsageError


def emergence(arguments: Sequence[str]) -> None:
    """Measure how a model arranges species and their variants, on the synthetic tree."""

    def emergence(
        model: tyro.conf.Positional[str],
        /,
        *,
        root: str = "synthetic",
        split: str = "test",
        results: Path | None = None,
        traits: tuple[str, ...] = ("size", "pattern_scale", "lightness", "saturation", "hue"),
        permutations: int = 999,
        resamples: int = 1000,
        seed: int = 0,
        max_images: int | None = None,
        batch_size: int = 64,
        picture: Path | None = None,
    ) -> None:
        """Measure how a model arranges species and their variants, on the synthetic tree; see docs/emergence.md.

        Args:
            model: work directory, checkpoint, folder of OpenCLIP, Hugging Face or `convert`, or hf-hub:owner/name.
            root: directory that `bioclip-jax data build synthetic` made; synthetic draws the default world's photos.
            split: of the dataset.
            results: database to add to; results.sqlite in the work directory, or here for another model.
            traits: continuous traits; the first is the one of the picture.
            permutations: of the null distributions.
            resamples: bootstrap resamples of species for the intervals; 0 for none.
            seed: of both.
            max_images: at most so many photos, chosen at random.
            batch_size: photos encoded at once.
            picture: PNG of the species along the first principal axis, to write.
        """
        from bioclip_jax.pipeline.local_paths import require_local

        require_local(model, "MODEL")
        require_local(results, "--results")
        require_local(picture, "--picture")
        from bioclip_jax.evaluation.emergence.figures import draw_axis
        from bioclip_jax.evaluation.emergence.run import run
        from bioclip_jax.evaluation.emergence.synthetic import Settings
        from bioclip_jax.inference.load import load

        if batch_size < 1:
            raise UsageError(f"--batch-size {batch_size}: must be at least 1")
        settings = Settings(permutations, resamples, seed)
        encoder = load(model)
        folder = Path(model) if (Path(model) / "checkpoints").is_dir() else Path()
        found = run(
            encoder, root, results or folder / "results.sqlite", split=split, traits=traits, settings=settings,
            batch_size=batch_size, limit=max_images,
        )  # fmt: skip
        if picture:
            print(draw_axis(found.axis, traits[0], picture, title=encoder.name))

    parse(emergence, arguments, "emergence")
