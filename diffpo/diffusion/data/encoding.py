"""What `encoding.json` says of encoded pairs."""

from typing import Any, TypedDict


class EncodedFiles(TypedDict):
    """What is in the files, when all are written.

    Attributes:
        k: pictures of each pair.
        unreadable: pairs of which a picture could not be read.
        prompts: that were encoded; `truncated` of them to `longest` tokens.
        latents: type of the posteriors.
        scaling: what latents are multiplied by after they were drawn.
        shapes: of latents, by the number that a pair names.
        states: tokens and width of a prompt's states.
        files: how many each table has, by its name.
        bytes: of all of them.
    """

    k: int
    unreadable: int
    prompts: int
    truncated: int
    longest: int
    latents: str
    scaling: float
    shapes: list[list[int]]
    states: list[int]
    files: dict[str, int]
    bytes: int


class EncodingSummary(EncodedFiles):
    """The same, and what the numbers depend on.

    Attributes:
        vae, text_encoders: hashes of weights, or names on the hub.
        flip: whether each picture was encoded mirrored, too.
        dtype: of text states.
        source: whose pairs these are; `datasets` are the paths that it names.
        pairs: that were encoded, of `ids` rows of the source.
        digest: of prompts and labels.
        notes: on some of the pairs, and on how many.
    """

    vae: str
    text_encoders: str
    flip: bool
    dtype: str
    source: str
    datasets: list[str]
    rows: list[str]
    seed: int
    pairs: int
    ids: int
    digest: str
    notes: dict[str, Any]
