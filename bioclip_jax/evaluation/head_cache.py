"""Text heads computed once for each (weights, templates, labels), block by block, so that a killed one continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bioclip_jax.evaluation.cache import ArrayCache, digest
from bioclip_jax.heads import EncodeText, Keep, KeptTexts


def head_keeper(
    cache: ArrayCache,
    fingerprint: str,
    templates: Sequence[str],
    advance: Callable[[int], None] = lambda texts: None,
) -> Keep:
    """What `heads.text_features` and `TaxonHead.from_text` take as `keep`: features of texts are kept in `cache`.

    Kept is a mean over templates for each text, so that 100,000 texts in 81 templates take as much room as in one.

    Args:
        cache: one without a folder keeps nothing.
        fingerprint: of the model.
        templates: those that the head is made with.
        advance: is called with the number of texts done.
    """

    def keep(texts: list[str], compute: EncodeText) -> np.ndarray:
        key = digest("head", fingerprint, list(templates), texts)
        kept = cache.get(key, {"means"})
        if kept is None or kept["means"].shape[:1] != (len(texts),):
            kept = {"means": compute(texts)}
            cache.put(key, kept)
        advance(len(texts))
        return kept["means"]

    return keep


def kept_texts(encode_text: EncodeText, cache: ArrayCache, fingerprint: str) -> KeptTexts:
    """`encode_text` of the model with `fingerprint`; heads that are made with it, in any templates, are in `cache`."""
    return KeptTexts(encode_text, lambda templates: head_keeper(cache, fingerprint, templates))
