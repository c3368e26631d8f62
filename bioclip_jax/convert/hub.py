"""`hf-hub:owner/name[@revision]`: fetches a model from the Hugging Face Hub. Nothing else here asks the network."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

from bioclip_jax.convert import hugging_face, open_clip
from bioclip_jax.errors import UsageError, UserError

PREFIX = "hf-hub:"
SECONDS_TO_WAIT = 10.0


def is_hub_name(name: str) -> bool:
    """Whether it has the form owner/name."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name))


def fetch(name: str) -> Path:
    """The folder of the Hub's cache that holds a model's files, which are downloaded if they are not there yet.

    Of a repository that has several formats only one is fetched, OpenCLIP's if it is there.

    Args:
        name: hf-hub:owner/name, or hf-hub:owner/name@revision.

    Raises:
        UsageError: no such form of name.
        UserError: no network, no such model, or no right to it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if not is_hub_name(repository):
        raise UsageError(f"{name!r}: expected {PREFIX}owner/name or {PREFIX}owner/name@revision")
    try:
        # Asked first because it alone gives up in time where the network hangs.
        info = HfApi().model_info(repository, revision=revision or None, timeout=SECONDS_TO_WAIT)
        wanted = _wanted([file.rfilename for file in info.siblings or []])
        if wanted:
            return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
    except hub.HFValidationError as error:
        raise UsageError(f"{name}: expected {PREFIX}owner/name or {PREFIX}owner/name@revision ({error})") from None
    except hub.GatedRepoError:
        raise UserError(f"{name}: the Hub asks you to accept this model's terms, and for your HF_TOKEN") from None
    except hub.RevisionNotFoundError:
        raise UserError(f"{name}: the Hub has the model, but not this revision") from None
    except hub.RepositoryNotFoundError:
        raise UserError(f"{name}: the Hub has no such model, or it is private and HF_TOKEN is not set") from None
    except Exception as error:  # the HTTP client has many of its own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise UserError(f"{name}: cannot be kept in the cache ({error})") from None
        return _cached(name, repository, revision, error)
    raise UserError(f"{name}: there is neither {open_clip.CONFIG_NAME} nor {hugging_face.CONFIG_NAME} with weights")


def _wanted(files: list[str]) -> list[str]:
    for config, weights in (
        (open_clip.CONFIG_NAME, open_clip.WEIGHTS_NAMES),
        (hugging_face.CONFIG_NAME, hugging_face.WEIGHTS_NAMES),
    ):
        first = next((file for file in weights if file in files), None)
        if config in files and first:
            parts = [file for file in files if file.startswith(f"{first.split('.')[0]}-")] if "index" in first else []
            return [config, hugging_face.PREPROCESSOR_NAME, hugging_face.PROCESSOR_NAME, first, *parts]
    return []


def _cached(name: str, repository: str, revision: str, error: Exception) -> Path:
    """What an earlier download left, where the network cannot be asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
        print(f"note: the Hugging Face Hub cannot be reached; an earlier download of {name} is used", file=sys.stderr)
        return folder
    except LocalEntryNotFoundError:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: the Hugging Face Hub cannot be reached ({reason}), and no earlier download is here; "
            "fetch the model's folder elsewhere and give its path"
        ) from None
