"""Vision-language models of transformers as judges for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.annotators.captioners.interleaved import Interleaved
from diffpo.annotators.user_judges.roles import UserJudge, UserQuestion, Verdict
from diffpo.annotators.user_judges.wording import WHICH, read_choice, word_question

QWEN_VL = "Qwen/Qwen2.5-VL-7B-Instruct"


@dataclass(frozen=True, eq=False)
class ChatUserJudge(Interleaved, UserJudge):
    """Any image-text-to-text model of transformers that takes several pictures.

    It answers greedily, so an answer that names no picture is not asked for again. Choose another model than the one
    that embeds users: it would find its own view of them confirmed.

    Args:
        instruction: what is asked after the comparisons; the last line of the answer has to name 1 or 2. A model that
            is to think before needs more max_tokens.
    """

    path: str = QWEN_VL
    batch_size: int = 4
    max_tokens: int = 16
    temperature: float = 0.0
    instruction: str = WHICH

    @property
    def asks(self) -> dict[str, Any]:
        return {"instruction": self.instruction}

    def __call__(self, questions: Sequence[UserQuestion], seeds: Sequence[int]) -> list[Verdict]:
        said = self.answers([self.content(question) for question in questions], seeds)
        return [Verdict(read_choice(text), text) for text in said]

    def content(self, question: UserQuestion) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in word_question(question, self.instruction, self.spoken)
        ]
