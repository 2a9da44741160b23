"""DIPPER: a T5 that paraphrases as far as control codes tell it to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from diffpo.annotators.captioners.pretrained import Pretrained
from diffpo.annotators.captioners.roles import Perturber, Strength
from diffpo.core.refusal import Refusal
from diffpo.storage.hub import SAFE, name_failed_loads


@dataclass(frozen=True, eq=False)
class Dipper(Pretrained, Perturber):
    """DIPPER (arXiv:2303.13408), with the settings of DCPO (arXiv:2502.06023, github.com/sahsaeedi/DCPO-T2I).

    Heavy: 11 billion weights. It rewrites a few sentences at a time, having read what it made of those before.

    Args:
        diversity: lexical diversity for weak, medium and strong; the control code is 100 minus it.
        order_diversity: how far sentences may change places.
        sentences: that are rewritten at a time.
        prefix: what it reads before the first sentence. DCPO puts an instruction there whose words are not published.
        vocabulary: hub id or path of T5's tokenizer, which stands in a repository of its own.

    Raises:
        Refusal: if a diversity is not one of 0, 20, ..., 100, on which DIPPER was trained.
    """

    path: str = "kalpeshk2011/dipper-paraphraser-xxl"
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 0.75
    diversity: tuple[int, int, int] = (40, 60, 80)
    order_diversity: int = 0
    sentences: int = 3
    prefix: str = ""
    vocabulary: str = "google/t5-v1_1-xxl"

    kind = "an encoder-decoder model"
    classes = AutoModelForSeq2SeqLM

    def __post_init__(self):
        if wrong := [d for d in (*self.diversity, self.order_diversity) if d not in range(0, 101, 20)]:
            raise Refusal(f"Dipper knows the diversities 0, 20, 40, 60, 80 and 100, not {wrong[0]}.")

    @classmethod
    def suits(cls, config: Any) -> bool:
        return type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    @property
    def asks(self) -> dict[str, Any]:
        codes = {"diversity": list(self.diversity), "order_diversity": self.order_diversity}
        return codes | {"sentences": self.sentences, "prefix": self.prefix, "vocabulary": self.vocabulary}

    @cached_property
    def processor(self) -> Any:
        with name_failed_loads(self.vocabulary, "a tokenizer"):
            return AutoTokenizer.from_pretrained(self.vocabulary, **SAFE)

    @property
    def tokenizer(self) -> Any:
        return self.processor

    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        said: list[str] = []
        for some, of_some in self.in_batches(texts, seeds):
            said += self.paraphrased([slide_windows(text, self.sentences) for text in some], strength, of_some)
        return said

    def paraphrased(self, texts: list[list[str]], strength: Strength, seeds: Sequence[int]) -> list[str]:
        """One batch, window by window; a text that has no more windows waits for the others."""
        said: list[list[str]] = [[] for _ in texts]
        for w in range(max(map(len, texts))):
            left = [i for i, of_text in enumerate(texts) if w < len(of_text)]
            asked = [self.asked(texts[i][w], said[i], strength) for i in left]
            inputs = self.tokenizer(asked, padding=True, return_tensors="pt")
            tokens = self.written(inputs, [(seeds[i] + w) % 2**31 for i in left])
            answers = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for i, answer in zip(left, answers, strict=True):
                said[i].append(answer)
        return [" ".join(of_text) for of_text in said]

    def asked(self, window: str, before: list[str], strength: Strength) -> str:
        """Control codes, what stands before, and the sentences between marks."""
        codes = f"lexical = {100 - self.diversity[strength.value]}, order = {100 - self.order_diversity}"
        return " ".join([*filter(None, [codes, self.prefix, *before]), f"<sent> {window} </sent>"])


def slide_windows(text: str, sentences: int) -> list[str]:
    """Some sentences at a time; a sentence ends with a mark and a space, which is enough for captions."""
    found = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return [" ".join(found[i : i + sentences]) for i in range(0, len(found), sentences)]
