"""What `encoding.json` says of encoded pairs."""

from typing import Any, TypedDict


class EncodedFiles(TypedDict):
    """What is in the files, when all are written.

    Attributes:
        k: pictures of each pair.
        unreadable: pairs of which a picture could not be read.
        prompts: that the pairs have, with the empty one.
        latents: type of the posteriors.
        scaling: what latents are multiplied by after they were drawn.
        shapes: of latents, by the number that a pair names.
        files: how many each table has, by its name.
        bytes: of all of them.
    """

    k: int
    unreadable: int
    prompts: int
    latents: str
    scaling: float
    shapes: list[list[int]]
    files: dict[str, int]
    bytes: int


class StoredPrompts(TypedDict):
    """What it says of their states.

    Attributes:
        truncated: prompts that were cut to `longest` tokens.
        states: tokens and width of a prompt's states.
    """

    truncated: int
    longest: int
    states: list[int]


class EncodingSummary(EncodedFiles, StoredPrompts):
    """The same, and what the numbers depend on; of pictures alone, what is said of states and text encoders is absent.

    Attributes:
        encode: "pictures" if prompts are not stored; absent otherwise.
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
