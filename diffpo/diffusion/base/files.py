"""Where the weights of a network are, and how diffusers wants them written: a piece at a time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import snapshot_download, split_state_dict_into_shards_factory
from safetensors.torch import save_file
from torch import Tensor

from diffpo.storage.digests import NETWORKS, require_exported
from diffpo.storage.hub import name_failed_loads

WEIGHTS = "diffusion_pytorch_model"


def locate_weights(path: str, *stems: str) -> Path:
    """A local file or folder; of a hub id, the configs and the weights with such names are fetched.

    Raises:
        Refusal: if there is neither, or it is not what a run has exported there.
    """
    if Path(path).exists():
        require_exported(Path(path))
        return Path(path)
    endings = (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
    names = ["config.json"] + [stem + ending for stem in stems for ending in endings]
    with name_failed_loads(path, "weights"):
        inner = [f"{folder}/{name}" for folder in NETWORKS for name in names]
        return Path(snapshot_download(path, allow_patterns=names + inner))


def find_weight_files(place: Path, stem: str = WEIGHTS) -> list[Path]:
    """The files that weights of a network are in: a file, those in `unet/` or `transformer/`, or those at its top.

    Args:
        stem: how their names begin.

    Returns:
        The files; none if there are none.
    """
    if place.is_file():
        return [place]
    for folder in (*(place / name for name in NETWORKS), place):
        if (index := folder / f"{stem}.safetensors.index.json").exists():
            names = json.loads(index.read_text())["weight_map"].values()
            return [folder / name for name in sorted(set(names))]
        if (whole := folder / f"{stem}.safetensors").exists():
            return [whole]
    return []


def loaded_files(folder: Path, variant: str | None) -> list[Path]:
    """The weight files of a folder that are loaded: safetensors before bin, the variant before the others."""
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return [file for file in found if (f".{variant}" in file.stem if variant else "." not in file.stem)] or found


def write_sharded(
    tensor: Callable[[str], Tensor],
    sizes: Mapping[str, int],
    folder: Path,
    stem: str,
    shard_size: int,
    metadata: dict[str, str],
) -> None:
    """Write tensors as diffusers names them, in shards with an index if they do not fit into one.

    No more than one shard is held at a time.

    Args:
        tensor: by name; called once for each.
        sizes: in bytes, of the tensors to write.
        folder: which exists.
        stem: how the names of files begin.
        shard_size: in bytes.
        metadata: of every file.
    """
    plan = split_state_dict_into_shards_factory(
        dict(sizes), get_storage_size=int, filename_pattern=stem + "{suffix}.safetensors", max_shard_size=shard_size
    )
    for file, names in plan.filename_to_tensors.items():
        save_file({name: tensor(name).contiguous() for name in names}, folder / file, {"format": "pt"} | metadata)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
