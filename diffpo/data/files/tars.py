"""Tar shards in WebDataset format, as `datasets` unpacks them: what a sample lacks is null, and texts may say in what
encoding they are."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO

from datasets.packaged_modules.webdataset.webdataset import WebDataset

from diffpo.storage.text_files import decode_text

TEXTS = {"txt", "text", "transcript", "json", "jsn"}  # endings of what is decoded as text


class Tars(WebDataset):
    """The reader of `datasets`, but for what it refuses or cannot decode."""

    @classmethod
    def _get_pipeline_from_tar(cls, tar_path: str, tar_iterator: Any) -> Iterator[dict[str, Any]]:
        """Samples of one shard.

        The first ones say which files there are: those of the largest of them. Where all files of a sample are among
        these, the ones that it lacks are null; a sample of other files is left to `datasets`, which refuses it.
        """
        samples = super()._get_pipeline_from_tar(tar_path, in_utf8(tar_path, tar_iterator))
        first = list(islice(samples, cls.NUM_EXAMPLES_FOR_FEATURES_INFERENCE))
        whole = max(first, key=len, default={})
        for sample in first:
            yield dict.fromkeys(whole) | sample if sample.keys() <= whole.keys() else sample
        yield from samples


def in_utf8(tar: str, files: Any) -> Iterator[tuple[str, BinaryIO]]:
    """The files of a shard, texts among them as UTF-8.

    Raises:
        Refusal: if a text cannot be read; it is named.
    """
    for name, file in files:
        is_text = name.rpartition(".")[2].lower() in TEXTS
        yield name, BytesIO(decode_text(file.read(), f"{name} in {tar}").encode()) if is_text else file
