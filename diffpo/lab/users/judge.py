"""The tiny world's users as judges of what is drawn for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from diffpo.annotators.user_judges.roles import UserJudge, UserQuestion, Verdict
from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.oracle import measure
from diffpo.lab.users.tastes import Population, Taste
from diffpo.storage.hub import name_failed_loads


@dataclass(frozen=True)
class UserOracle(UserJudge):
    """Users of the tiny world themselves, without noise; they look at no support. Equal pictures get no verdict.

    Args:
        tastes: file that scripts/build_assets.py users wrote, users.json.
    """

    tastes: str

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "UserOracle", "tastes": {user: str(taste) for user, taste in self.users.items()}}

    @cached_property
    def users(self) -> dict[str, Taste]:
        with name_failed_loads(self.tastes, "tastes of users"):
            return Population.read(Path(self.tastes)).all

    def __call__(self, questions: Sequence[UserQuestion], seeds: Sequence[int]) -> list[Verdict]:
        return [self.verdict(question) for question in questions]

    def verdict(self, question: UserQuestion) -> Verdict:
        """
        Raises:
            Refusal: if there is no such user.
        """
        if question.user not in self.users:
            raise Refusal(f"{self.tastes} has no user {question.user!r}; name the file of the pairs' users.")
        first, second = (self.utility(question, picture) for picture in (question.first, question.second))
        return Verdict(None if first == second else 1 if first > second else 2)

    def utility(self, question: UserQuestion, picture: Image.Image) -> float:
        return self.users[question.user].utility(measure(picture), read_caption(question.caption))
