"""A user's price list: YAML of chip names and prices. There is none in the package, since it would go stale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bioclip_jax.errors import UsageError
from bioclip_jax.yaml_files import read_mapping


@dataclasses.dataclass(frozen=True)
class Prices:
    """What chips cost."""

    currency: str
    """As USD."""
    per_chip_hour: Mapping[str, float]
    """By the chip's name, as v5e."""
    file: str
    """Where they stand, for messages."""

    def of(self, chip: str) -> float:
        """Of one chip for an hour.

        Raises:
            UsageError: the list does not have it.
        """
        if chip not in self.per_chip_hour:
            raise UsageError(f"{self.file} has no price of {chip}; add a line `{chip}: PRICE`, per chip and hour")
        return self.per_chip_hour[chip]


def read_prices(path: Path, chips: Collection[str]) -> Prices:
    """Reads a list: `currency: USD`, and a line for each chip.

    Args:
        path: of the file.
        chips: names that there are.

    Raises:
        UsageError: there is no such file, or a line of it is wrong; the message says which.
    """
    root = read_mapping(path, "--prices", "`currency: USD` and `v5e: 1.5`")
    return _prices(path, root, chips)


def _prices(path: Path, root: Any, chips: Collection[str]) -> Prices:
    import yaml

    currency, prices = "", dict[str, float]()
    for key, value in root.value:
        where, name = f"--prices {path}, line {key.start_mark.line + 1}", str(key.value)
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise UsageError(f"{where}: expected a name and one value, as `v5e: 1.5`")
        if name == "currency":
            currency = str(value.value).strip()
        elif name not in chips:
            raise UsageError(f"{where}: {name!r} is no chip that is known; the chips are {', '.join(chips)}")
        else:
            prices[name] = _price(where, name, str(value.value))
    if not currency:
        raise UsageError(f"--prices {path} has no line `currency: ...`; say what the prices are in")
    return Prices(currency, prices, str(path))


def _price(where: str, name: str, text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise UsageError(f"{where}: {name} is {text!r}; expected a number, 0 or more, per chip and hour")
    return price
