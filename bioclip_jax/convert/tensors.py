"""Named tensors that lie in files: what is there is known at once, the numbers are read when they are asked for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from bioclip_jax.convert.names import BIAS_KEY, IGNORED, REPLAY_KEY, Format, Shape
from bioclip_jax.errors import UserError

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}
"""The types that weights come in, by name."""


@dataclass(frozen=True)
class Spec:
    """Type and shape of a tensor."""

    dtype: str
    """A name of `DTYPES`, or whatever else the file says."""
    shape: Shape


class Tensors(Protocol):
    """A set of named tensors."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """What is there."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A tensor, or its rows start .. stop - 1 (along the first axis); only these are read.

        Raises:
            UserError: the file has changed or cannot be read.
        """
        ...


def check_names(specs: Mapping[str, Spec], expected: Mapping[str, Shape], form: Format, where: str) -> None:
    """Checks that the tensors of a model are there, with their shapes, and no others.

    Raises:
        UserError: names every tensor that is missing, unexpected, of another shape or of no float type.
    """
    present = {key: spec for key, spec in specs.items() if key not in IGNORED[form]}
    missing = [f"{key} {list(shape)}" for key, shape in expected.items() if key not in present]
    if len(missing) == len(expected):
        raise UserError(
            f"{where}: these are not the weights of a CLIP model under the names of {form}; "
            f"it holds {listed(f'{key} {list(spec.shape)}' for key, spec in present.items()) or 'no tensors'}"
        )
    unexpected = [f"{key} {list(spec.shape)}" for key, spec in present.items() if key not in expected]
    both = [(key, present[key], shape) for key, shape in expected.items() if key in present]
    mis_shaped = [
        f"{key} {list(spec.shape)}, not {list(shape)}" for key, spec, shape in both if not _fits(spec.shape, shape)
    ]
    other_types = [f"{key} {spec.dtype}" for key, spec, _ in both if spec.dtype not in DTYPES]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": mis_shaped,
        "neither float32, float16, bfloat16 nor float64": other_types,
    }
    faults = [f"{len(faults)} {kind}: {listed(faults)}" for kind, faults in kinds.items() if faults]
    if faults:
        raise UserError(f"{where}: not the weights of the model in the config: " + "; ".join(faults))


def _fits(shape: Shape, expected: Shape) -> bool:
    return shape == expected or (shape == (1,) and not expected)  # some files have the logit scale as a vector


def has_replay_projector(specs: Mapping[str, Spec]) -> bool:
    """Whether OpenCLIP's names include the second visual projector."""
    return REPLAY_KEY in specs


def has_logit_bias(specs: Mapping[str, Spec]) -> bool:
    """Whether OpenCLIP's names include a bias of the logits."""
    return BIAS_KEY in specs


def listed(lines: Iterable[str]) -> str:
    """All lines in one, layers drawn together: `blocks.{0-3,7}.bias [8]`."""
    groups: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        number = re.search(r"(?<=\.)\d{1,6}(?=\.)", line)
        pattern = line[: number.start()] + "\0" + line[number.end() :] if number else line
        groups[pattern].append(int(number[0]) if number else 0)
    return ", ".join(pattern.replace("\0", _ranges(numbers)) for pattern, numbers in groups.items())


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers as `{0-3,7}`; a single one as it is."""
    if len(numbers) == 1:
        return str(numbers[0])
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return "{" + ",".join(f"{a}-{b}" if a != b else str(a) for a, b in spans) + "}"
