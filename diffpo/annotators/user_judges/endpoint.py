"""Vision-language models behind an OpenAI-compatible endpoint as judges for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.embedders.embedder import Shown
from diffpo.annotators.endpoint import Content, Served, encode_picture
from diffpo.annotators.user_judges.roles import SupportExample, UserJudge, UserQuestion, Verdict
from diffpo.annotators.user_judges.wording import WHICH, read_choice, word_question


@dataclass(frozen=True, eq=False)
class EndpointUserJudge(Served, UserJudge):
    """A vision model at an endpoint; the judge of PPD's third-party mirror (github.com/RoyceCho1/PPD) is gpt-4o-mini.

    Args:
        retries: how often an answer that names no picture is asked for again, each time with another seed. At
            temperature 0 a server is likely to say the same again.
        instruction: what is asked after the comparisons; the last line of the answer has to name 1 or 2. A model that
            is to think before needs more max_tokens.
    """

    max_tokens: int = 16
    retries: int = 2
    instruction: str = WHICH

    @property
    def asks(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "retries": self.retries}

    @property
    def sample(self) -> Content:
        gray = Image.new("RGB", (64, 64), "gray")
        example = SupportExample(Shown("a gray square", gray, gray), 1)
        return self.content(UserQuestion("nobody", (example,), "a gray square", gray, gray))

    def content(self, question: UserQuestion) -> Content:
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": encode_picture(part)}}
            for part in word_question(question, self.instruction)
        ]

    def __call__(self, questions: Sequence[UserQuestion], seeds: Sequence[int]) -> list[Verdict]:
        contents = [self.content(question) for question in questions]
        verdicts: dict[int, Verdict] = {}
        for attempt in range(1 + self.retries):
            left = [i for i in range(len(contents)) if i not in verdicts or verdicts[i].choice is None]
            try:
                said = self.answers([contents[i] for i in left], [seeds[i] + attempt for i in left])
            except Interrupted as error:
                heard = {left[j]: read_verdict(text, attempt) for j, text in error.said.items()}
                named = {i: verdict for i, verdict in (verdicts | heard).items() if verdict.choice is not None}
                raise Interrupted(str(error), named) from error
            verdicts |= {i: read_verdict(text, attempt) for i, text in zip(left, said, strict=True)}
        return [verdicts[i] for i in range(len(contents))]


def read_verdict(text: str, retried: int) -> Verdict:
    return Verdict(read_choice(text), text, retried)
