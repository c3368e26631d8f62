"""PyTorch's pickle files: state dicts and training checkpoints are read, whatever would run is refused by name."""

import argparse
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

import bioclip_jax
from bioclip_jax.convert import open_clip as folders
from bioclip_jax.convert.torch_files import TorchFile
from bioclip_jax.errors import UserError

try:
    import torch
except ImportError:  # where only the core tests run, these are collected all the same
    torch = None


@pytest.fixture(scope="module")
def model(tmp_path_factory, write):
    return write(tmp_path_factory.mktemp("torch") / "model")


@pytest.fixture
def state(model):
    import safetensors.torch

    return safetensors.torch.load_file(model / folders.WEIGHTS_NAME)


def assert_same_model(opened, model):
    assert opened.fingerprint == bioclip_jax.load(model).fingerprint


@pytest.mark.parametrize("legacy", [False, True])
def test_a_folder_with_a_bin_file_is_read(tmp_path, model, state, legacy):
    (tmp_path / folders.CONFIG_NAME).write_bytes((model / folders.CONFIG_NAME).read_bytes())
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert_same_model(bioclip_jax.load(tmp_path), model)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_a_training_checkpoint_is_read(tmp_path, model, state, prefix):
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in state.values()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "name": "run",
        "state_dict": {prefix + key: torch.nn.Parameter(tensor) for key, tensor in state.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0},
    }
    torch.save(checkpoint, tmp_path / "epoch_3.pt")
    assert_same_model(bioclip_jax.load(tmp_path / "epoch_3.pt", model=str(model / folders.CONFIG_NAME)), model)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_types_are_kept_bit_for_bit(tmp_path, state, name):
    dtype = getattr(torch, name)
    torch.save({key: tensor.to(dtype) for key, tensor in state.items()}, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt")
    for key, tensor in state.items():
        ours = file.read(key)
        assert str(ours.dtype) == name
        assert ours.tobytes() == tensor.to(dtype).reshape(-1).view(torch.uint8).numpy().tobytes()
    rows = file.read("text_projection", 3, 7)
    np.testing.assert_array_equal(rows, file.read("text_projection")[3:7])


def test_views_and_transposed_tensors_are_read_as_they_look(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"transposed": whole.T, "part": whole[:, 1]}, tmp_path / "a.pt")
    file = TorchFile(tmp_path / "a.pt")
    np.testing.assert_array_equal(file.read("transposed", 1, 3), whole.numpy().T[1:3])
    np.testing.assert_array_equal(file.read("part"), whole.numpy()[:, 1])


class Runs:
    def __reduce__(self):
        return os.system, ("touch /nowhere/bioclip_jax_was_here",)


def test_what_would_run_is_refused_by_name(tmp_path, state):
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "arguments.pt")
    with pytest.raises(UserError, match=r"arguments.pt: refused, because opening it would run argparse.Namespace"):
        TorchFile(tmp_path / "arguments.pt")
    torch.save({"state_dict": state, "x": Runs()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"would run posix.system; ask for the weights as safetensors"):
        TorchFile(tmp_path / "evil.pt")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(UserError, match=r"raw.bin: refused, because opening it would run posix.system"):
        TorchFile(tmp_path / "raw.bin")


def test_tensors_without_plain_numbers_are_refused(tmp_path, state):
    for name, tensor in (("sparse", torch.eye(3).to_sparse()), ("meta", torch.empty(3, device="meta"))):
        torch.save({**state, name: tensor}, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=f"{name} is sparse or without numbers"):
            TorchFile(tmp_path / f"{name}.pt")


def test_programs_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="TorchScript archive, which is a program"):
        TorchFile(tmp_path / "script.pt")


def test_what_is_no_state_dict_is_said(tmp_path, state):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        TorchFile(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="holds no tensors; its keys are epoch"):
        TorchFile(tmp_path / "empty.pt")
    with pytest.raises(UserError, match="there is no such file"):
        TorchFile(tmp_path / "absent.pt")


@pytest.mark.parametrize("length", [0, 3, 100, 10_000])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_named(tmp_path, state, legacy, length):
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue()[:length])
    with pytest.raises(UserError, match=r"a\.pt: not a readable PyTorch file, or truncated"):
        TorchFile(tmp_path / "a.pt")


def test_other_files_are_named(tmp_path):
    (tmp_path / "text.bin").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.bin", "w") as archive:
        archive.writestr("x.txt", "hello")
    for name in ("text.bin", "zip.bin"):
        with pytest.raises(UserError, match=f"{name}: not a readable PyTorch file"):
            TorchFile(tmp_path / name)


def test_without_pytorch_safetensors_are_read_and_pickles_say_what_is_missing(tmp_path, model, state, monkeypatch):
    import sys

    torch.save(state, tmp_path / "a.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    bioclip_jax.load(model)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'bioclip-jax\[torch\]'"):
        TorchFile(tmp_path / "a.pt")
