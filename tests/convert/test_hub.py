"""The Hugging Face Hub: earlier downloads are found without a network, and every way to fail is one clear line."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

import bioclip_jax
from bioclip_jax.convert import hub
from bioclip_jax.errors import UsageError, UserError

pytestmark = pytest.mark.core


class NoNetwork:
    """Takes the place of the Hub's client; answers nothing unless told to."""

    files: list[str] | None = None
    error: Exception = ConnectionError("Name or service not known")
    timeout: float | None = None

    def model_info(self, repository, *, revision, timeout):
        huggingface_hub.utils.validate_repo_id(repository)
        NoNetwork.timeout = timeout
        if self.files is None:
            raise self.error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "HfApi", NoNetwork)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def downloaded(tmp_path, write):
    """A model in the cache, as an earlier download leaves it."""
    commit, folder = "a" * 40, tmp_path / "cache" / "models--someone--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return write(folder / "snapshots" / commit)


def test_an_earlier_download_is_used_where_there_is_no_network(downloaded):
    model = bioclip_jax.load("hf-hub:someone/small")
    assert model.fingerprint == bioclip_jax.load(downloaded).fingerprint
    assert NoNetwork.timeout == hub.SECONDS_TO_WAIT


def test_without_network_and_download_there_is_one_clear_line():
    with pytest.raises(UserError, match=r"hf-hub:someone/other: the Hugging Face Hub cannot be reached \(Name or"):
        bioclip_jax.load("hf-hub:someone/other")
    with pytest.raises(UserError, match="cannot be reached"):
        bioclip_jax.load("hf-hub:someone/other@v1")


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:a/b/c", "hf-hub:../../etc", "hf-hub:a b/c"])
def test_names_of_another_form_are_refused(name):
    with pytest.raises(UsageError, match="expected hf-hub:owner/name"):
        bioclip_jax.load(name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "no such model, or it is private"),
        (errors.GatedRepoError, "accept this model's terms"),
        (errors.RevisionNotFoundError, "not this revision"),
    ],
)
def test_what_the_hub_refuses_is_said(monkeypatch, error, message):
    monkeypatch.setattr(NoNetwork, "error", error.__new__(error))  # its constructor wants the client's own response
    with pytest.raises(UserError, match=message):
        bioclip_jax.load("hf-hub:someone/small@v1")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (
            ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "config.json"],
            [
                "open_clip_config.json",
                "preprocessor_config.json",
                "processor_config.json",
                "open_clip_model.safetensors",
            ],
        ),
        (
            [
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "tokenizer.json",
                "model-00002-of-00002.safetensors",
            ],
            [
                "config.json",
                "preprocessor_config.json",
                "processor_config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        ),
        (
            ["config.json", "pytorch_model.bin"],
            ["config.json", "preprocessor_config.json", "processor_config.json", "pytorch_model.bin"],
        ),
    ],
)
def test_only_one_format_is_fetched(monkeypatch, tmp_path, files, wanted):
    asked = {}

    def snapshot_download(repository, **arguments):
        asked.update(arguments, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(NoNetwork, "files", files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.fetch("hf-hub:someone/small@v1") == tmp_path
    assert asked == {"repository": "someone/small", "revision": "v1", "allow_patterns": wanted}


def test_a_repository_without_a_clip_is_said_to_be_that(monkeypatch):
    monkeypatch.setattr(NoNetwork, "files", ["README.md", "config.json"])
    with pytest.raises(UserError, match=r"neither open_clip_config.json nor config.json with weights"):
        hub.fetch("hf-hub:someone/small")
