"""Which pairs of whom make a support chunk (PPD, arXiv:2501.06655)."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.data.typed import is_null
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder


class SupportChunk(NamedTuple):
    """Some pairs of one user that stand in no other chunk.

    Attributes:
        number: among the user's chunks.
        pairs: their positions among all pairs.
    """

    user: str
    number: int
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """How the pairs of each user are cut into support chunks.

    A hash of seed, user and row orders a user's pairs, so neither the order of the source nor the number of processes
    matters, and further users change nothing. Pairs that do not fill a chunk stay over, for training. Ties are no
    support: they have no preferred picture.

    Args:
        user: column of the source with the id of who compared.
        shots: pairs in a chunk, N in the paper; users with fewer are left out.
        most_chunks: of a user; None is as many as there are. The release embeds one of each user.

    Raises:
        Refusal: if a number is not positive.
    """

    user: str = "user_id"
    shots: int = 4
    most_chunks: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.shots < 1 or (self.most_chunks is not None and self.most_chunks < 1):
            raise Refusal(
                f"shots and most_chunks must be 1 or more, got {self.shots} and {self.most_chunks}; null as "
                "most_chunks is as many as there are."
            )

    def order(self, user: str, row: int) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{user}/{row}/support".encode(), digest_size=16).digest()

    def __call__(self, pairs: PairsInOrder, silent: bool = True) -> "Chunks":
        """Look at all rows, but not at their pictures.

        Raises:
            Refusal: if there is no such column, or no user has enough pairs.
        """
        if lacking := [sorted(columns) for columns in pairs.columns if self.user not in columns]:
            raise Refusal(
                f"user names the column {self.user!r}, the source has {', '.join(lacking[0])}; name the column with "
                "the ids of users."
            )
        digest, ties, anonymous = hashlib.sha256(), 0, 0
        of_user: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for n, row in enumerate(tqdm(pairs, total=len(pairs), desc="reading rows", delay=5, disable=silent)):
            user = row.extra[self.user]
            digest.update(json.dumps([row.id, str(user), row.prompts, row.prob, row.turned]).encode())
            ties += row.prob == 0.5
            anonymous += is_null(user)
            if row.prob != 0.5 and not is_null(user):
                of_user[str(user)].append((self.order(str(user), row.id), n))
        chunks = [
            SupportChunk(user, number, tuple(n for _, n in ordered[number * self.shots :][: self.shots]))
            for user, ordered in ((user, sorted(of_user[user])) for user in sorted(of_user))
            for number in range(len(ordered) // self.shots)[: self.most_chunks]
        ]
        if not chunks:
            raise Refusal(
                f"None of {len(of_user)} users in column {self.user!r} has {self.shots} pairs with a winner; set "
                "shots to less, or name a source with more pairs per user."
            )
        enough = {chunk.user for chunk in chunks}
        counts = {"ties": ties, "pairs_without_user": anonymous, "users": len(enough)}
        return Chunks(chunks, counts | {"users_with_too_few": len(of_user) - len(enough)}, digest.hexdigest()[:16])


class Chunks(NamedTuple):
    """Support chunks of all users, sorted by user.

    Attributes:
        counts: users, those left out, and pairs that cannot be support.
        digest: tells data apart that have the same path.
    """

    all: list[SupportChunk]
    counts: dict[str, int]
    digest: str
