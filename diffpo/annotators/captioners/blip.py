"""BLIP: a small captioner that cannot be instructed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import BlipConfig, BlipForConditionalGeneration

from diffpo.annotators.captioners.pretrained import Pretrained
from diffpo.annotators.captioners.roles import Captioner


@dataclass(frozen=True, eq=False)
class Blip(Pretrained, Captioner):
    """BLIP (arXiv:2201.12086): short captions that do not depend on the prompt."""

    path: str = "Salesforce/blip-image-captioning-large"
    batch_size: int = 32
    max_tokens: int = 50

    kind = "a BLIP captioning model"
    classes = BlipForConditionalGeneration

    @classmethod
    def suits(cls, config: Any) -> bool:
        return isinstance(config, BlipConfig)

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        said: list[str] = []
        for some, of_some in self.in_batches(pictures, seeds):
            tokens = self.written(self.processor(images=list(some), return_tensors="pt"), of_some)
            said += self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return said
