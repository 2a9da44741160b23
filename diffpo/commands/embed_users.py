"""Embed the users of a dataset: each by some pairs that they compared (PPD).

accelerate launch scripts/embed_users.py --config configs/annotate/embed.yaml --output_dir users
"""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from diffpo.annotators.embedders.embedder import UserEmbedder
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import run_job
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.embed import embed_users
from diffpo.diffusion.users.embeddings import SUMMARY, Precision, UserEmbeddings
from diffpo.diffusion.users.separability import recognize_users


def main(
    embedder: UserEmbedder,
    source: Source,
    output_dir: Path,
    user: str = "user_id",
    shots: int = 4,
    most_chunks: int | None = None,
    rows: list[RowMap] | None = None,
    seed: int = 0,
    dtype: Precision = "bfloat16",
    batch_size: int = 8,
    classify: bool = False,
    settings: str = "",
) -> None:
    """Embed the users of a dataset: each by some pairs that they compared (PPD).

    Args:
        embedder: who looks at a user's pairs: diffpo.annotators.ChatEmbedder or
            diffpo.annotators.PooledDifference.
        source: the pairs, e.g. diffpo.data.PickAPic.
        output_dir: gets embeddings that diffpo.diffusion.UserEmbeddings reads. After a kill, the same command goes on
            where it stopped.
        user: column with the id of who compared.
        shots: pairs that make one embedding; users with fewer are left out.
        most_chunks: embeddings of a user, each of other pairs; null is as many as there are pairs for.
        rows: what drops pairs before they are grouped; null keeps all. Ties are never taken.
        seed: of which pairs stand together, and of the row maps.
        dtype: in which embeddings are stored.
        batch_size: embeddings whose pictures are read at a time; an embedder may divide them further.
        classify: whether to tell in the end how well embeddings tell users apart.
        settings: the resolved config.
    """
    cut = Cut(user, shots, most_chunks, seed)
    run_job(
        lambda: embed_users(embedder, source, output_dir, cut, rows or [], dtype, batch_size),
        summary=output_dir / SUMMARY,
        settings=settings,
        done="embedded",
        describe=describe_embeddings,
    )
    if classify and PartialState().is_main_process:
        print(told_apart(UserEmbeddings(str(output_dir))))


def describe_embeddings(found: dict[str, Any], output_dir: Path) -> str:
    """The summary in sentences."""
    return (
        f"{found['chunks']} embeddings of {found['users']} users, each of {found['shots']} pairs: {found['tokens']} "
        f"tokens of width {found['width']} by {found['embedder']} ({found['model_id']}), {found['bytes'] / 2**20:.1f} "
        f"MiB in {found['dtype']}. {found['users_with_too_few']} users have too few pairs, {found['ties']} pairs are "
        f"ties, {found['pairs_without_user']} have no user, {found['unreadable']} embeddings lack a picture. They are "
        f"in {output_dir}: diffpo.diffusion.UserEmbeddings reads them."
    )


def told_apart(embeddings: UserEmbeddings) -> str:
    users, top_1, top_5 = recognize_users(embeddings)
    return (
        f"Held-out pairs are given to the right one of {users} users in {top_1:.1%} (chance {1 / users:.1%}), to one "
        f"of five in {top_5:.1%} (chance {min(1, 5 / users):.1%})."
    )
