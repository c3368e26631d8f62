"""PyTorch's own files (.bin, .pt, .pth), which are pickles: read with `weights_only=True`, so that nothing runs.

This is the only module that imports PyTorch, and only when such a file is opened. Safetensors need none of it.
"""

from __future__ import annotations

import contextlib
import pickletools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_jax.convert.tensors import DTYPES, Spec
from bioclip_jax.errors import UserError

SUFFIXES = (".bin", ".pt", ".pth")
_PICKLES_IN_A_FILE = 5
"""Of PyTorch's format before 1.6, no zip file: magic number, version, system, contents, names of storages."""
_PREFIXES = ("module.", "_orig_mod.")
"""What data parallelism and torch.compile put before every name."""


class TorchFile:
    """The tensors of a state dict, or of the one in a training checkpoint; mapped into memory, not read, at first."""

    def __init__(self, path: Path):
        """Opens the file.

        Raises:
            UserError: PyTorch is not installed; the file would run code, is damaged, or holds no state dict.
        """
        self.path = path
        self._tensors = _state_dict(_load(path), path)
        self.specs = {key: _spec(tensor) for key, tensor in self._tensors.items()}

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """See `Tensors.read`."""
        import torch

        tensor = self._tensors[key].detach()
        part = tensor[start:stop] if tensor.ndim else tensor
        if part.dtype == torch.bfloat16:  # NumPy has no such type of its own
            return np.array(part.contiguous().view(torch.uint16).numpy()).view(DTYPES["bfloat16"])
        return np.array(part.contiguous().numpy())


def _spec(tensor: Any) -> Spec:
    return Spec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: reading PyTorch's pickle files needs PyTorch: pip install 'bioclip-jax[torch]', "
            "or ask for the weights as safetensors"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    is_zip = _is_zip(path)
    if is_zip and _is_torchscript(path):
        raise UserError(f"{path}: a TorchScript archive, which is a program; a state dict is needed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # whatever a damaged or hostile pickle leads to
        raise UserError(f"{path}: {_reason(path, error)}") from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_torchscript(path: Path) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # torch says what is wrong with it


def _reason(path: Path, error: Exception) -> str:
    import torch

    try:
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:
        names = sorted(_named_in_pickles(path))  # not a zip file
    if names:
        return (
            f"refused, because opening it would run {', '.join(names)}; ask for the weights as safetensors, "
            "or save its state_dict alone where you trust it"
        )
    # PyTorch's own words end in how to open the file all the same.
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0].partition(". In PyTorch")[0]
    return f"not a readable PyTorch file, or truncated ({text[:200]})"


def _named_in_pickles(path: Path) -> set[str]:
    """What the pickles at the start of a file would call; they are read as opcodes, and nothing runs."""
    names: set[str] = set()
    texts: list[str] = []
    with path.open("rb") as file, contextlib.suppress(Exception):  # a damaged pickle ends the search
        for _ in range(_PICKLES_IN_A_FILE):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.add(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    return {name for name in names if not name.startswith(("torch.", "collections."))}


def _state_dict(content: Any, path: Path) -> dict[str, Any]:
    """The tensors by name, prefixes removed."""
    import torch

    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict of named tensors")
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors; its keys are {', '.join(list(content)[:8])}")
    odd = [key for key, value in tensors.items() if value.layout is not torch.strided or value.device.type != "cpu"]
    if odd:
        raise UserError(f"{path}: {odd[0]} is sparse or without numbers; a dense tensor is needed")
    for prefix in _PREFIXES * 2:  # in either order
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
