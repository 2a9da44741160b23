"""Which pairs are put to a judge for which person, and what was drawn for whom."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.rows import PairRow
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.annotate.score import read_candidate
from diffpo.diffusion.evaluation.listing import LISTING, read_listing
from diffpo.diffusion.users.chunks import Cut
from diffpo.storage.files import require_folder

Read = Callable[[], Image.Image]


@dataclass(frozen=True)
class Panel:
    """Whom a judge judges for, and by which of their pairs.

    A hash of seed, user and row orders a user's pairs, as for embeddings: the first ones are the support. So with the
    seed and the shots of scripts/embed_users.py, a judge sees the pairs that a user's first embedding is made of.

    Attributes:
        user: column of the source with the id of who compared.
        shots: pairs of a user that the judge sees. They are ordered left and right by a coin for each.
        labeled: further pairs of each user, at most, on which the judge is tested.
        most_users: chosen by a hash; None is all.

    Raises:
        Refusal: if there are to be no shots, no users, or fewer than no labeled pairs.
    """

    user: str = "user_id"
    shots: int = 4
    labeled: int = 4
    most_users: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.shots < 1 or self.labeled < 0 or (self.most_users is not None and self.most_users < 1):
            raise Refusal(
                f"shots must be 1 or more, labeled 0 or more and most_users 1 or more (null is all), got {self.shots},"
                f" {self.labeled} and {self.most_users}."
            )

    def seat(self, pairs: PairsInOrder, silent: bool = True) -> "Seated":
        """Look at all rows, but not at their pictures.

        Raises:
            Refusal: if the source has no such column, or no pair with a winner.
        """
        cut = Cut(self.user, shots=1, seed=self.seed)(pairs, silent)
        of_user: dict[str, list[int]] = defaultdict(list)
        for chunk in cut.all:
            of_user[chunk.user] += chunk.pairs
        return Seated(self, pairs, dict(of_user), cut.digest)

    def first(self, users: Sequence[str]) -> list[str]:
        """Those who are judged for, sorted."""
        ordered = sorted(users, key=lambda user: hashlib.blake2b(f"{self.seed}/{user}/panel".encode()).digest())
        return sorted(ordered[: self.most_users])


@dataclass(frozen=True, eq=False)
class Query:
    """Whether a person prefers one picture ("ours") to another ("theirs").

    Attributes:
        support: the person's pairs that the judge sees.
        pair: id of the pair, if it is one of the source: then ours is the picture that the person preferred.

    Raises:
        Refusal: if the pair is part of its own support.
    """

    user: str
    support: tuple[PairRow, ...]
    caption: str
    ours: Read
    theirs: Read
    pair: int | None = None

    def __post_init__(self):
        ids = [row.id for row in self.support]
        if self.pair in ids:
            raise Refusal(
                f"Pair {self.pair} of user {self.user!r} is to be judged and is part of the support {ids}, which "
                "tells its label; take it out of one of the two."
            )


@dataclass(frozen=True, eq=False)
class Seated:
    """Users with their pairs, those with a winner, in their order.

    Attributes:
        of_user: positions of each user's pairs.
        digest: tells data apart that have the same path.
    """

    panel: Panel
    pairs: PairsInOrder
    of_user: Mapping[str, Sequence[int]]
    digest: str

    def support(self, user: str) -> tuple[PairRow, ...]:
        """
        Raises:
            Refusal: if the user has too few pairs.
        """
        positions = self.of_user.get(user, ())[: self.panel.shots]
        if len(positions) < self.panel.shots:
            raise Refusal(
                f"User {user!r} has {len(positions)} pairs with a winner in the source, the judge is to see "
                f"{self.panel.shots}; set shots to less, or leave the user's pictures out."
            )
        return tuple(self.pairs[n] for n in positions)

    @cached_property
    def testable(self) -> list[str]:
        """Users with pairs beyond the support.

        Raises:
            Refusal: if there are none.
        """
        found = [user for user, positions in self.of_user.items() if len(positions) > self.panel.shots]
        if not found:
            raise Refusal(
                f"None of {len(self.of_user)} users in column {self.panel.user!r} has more than {self.panel.shots} "
                "pairs with a winner, so the judge cannot be tested; set shots to less."
            )
        return self.panel.first(found)

    def known(self, users: Sequence[str]) -> list[Query]:
        """The labeled pairs of users who have support."""
        last = self.panel.shots + self.panel.labeled
        return [
            Query(
                user,
                support,
                str(row.prompts[0]),
                partial(read_candidate, preferred),
                partial(read_candidate, other),
                row.id,
            )
            for user, support in ((user, self.support(user)) for user in users)
            for row in (self.pairs[n] for n in self.of_user[user][self.panel.shots : last])
            for preferred, other in [row.candidates]
        ]

    def drawn(self, users: Sequence[str], ours: "DrawnForUsers", theirs: "DrawnForUsers") -> list[Query]:
        """Pictures that two models drew for the same users and prompts."""
        return [
            Query(user, support, one.prompt, partial(read_image, one.file), partial(read_image, two.file))
            for user, support in ((user, self.support(user)) for user in users)
            for one, two in zip(ours.of_user[user], theirs.of_user[user], strict=True)
        ]


class Picture(NamedTuple):
    prompt: str
    file: str


@dataclass(frozen=True, eq=False)
class DrawnForUsers:
    """What one model drew for users."""

    folder: Path
    of_user: Mapping[str, Sequence[Picture]]

    @property
    def files(self) -> list[Path]:
        return [Path(one.file) for pictures in self.of_user.values() for one in pictures]

    def require_like(self, other: "DrawnForUsers") -> None:
        """Raise a Refusal if two models drew for other users, or other prompts."""
        for one, two in ((self, other), (other, self)):
            if missing := sorted(one.of_user.keys() - two.of_user.keys()):
                raise Refusal(
                    f"{one.folder} has pictures for user {missing[0]!r}, {two.folder} has none; draw for the same "
                    "users with both models."
                )
        for user, pictures in self.of_user.items():
            said = [[one.prompt for one in drawn] for drawn in (pictures, other.of_user[user])]
            if said[0] != said[1]:
                raise Refusal(
                    f"For user {user!r}, {self.folder} has {len(said[0])} pictures and {other.folder} has "
                    f"{len(said[1])}, or of other prompts; draw the same prompts with both models."
                )


def drawn_in(folder: Path) -> DrawnForUsers:
    """A folder with one for each user: pictures 00000.png and so on, and `prompts.jsonl`, which has a line for each
    with its `prompt` and, where it is called otherwise, its `file`.

    Raises:
        Refusal: if there are none.
    """
    require_folder(folder, "pictures for users")
    of_user = {listing.parent.name: pictures_in(listing) for listing in sorted(folder.glob(f"*/{LISTING}"))}
    if not any(of_user.values()):
        raise Refusal(f"{folder} has no pictures for users; each user x needs x/{LISTING} and x/00000.png etc.")
    return DrawnForUsers(folder, of_user)


def pictures_in(listing: Path) -> list[Picture]:
    return [Picture(prompt, str(file)) for prompt, file in read_listing(listing)]
