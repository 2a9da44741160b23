"""Captioners and perturbers behind an OpenAI-compatible endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from diffpo.annotators.captioners.instructions import DESCRIBE, InstructedPerturber, require_template
from diffpo.annotators.captioners.roles import Captioner
from diffpo.annotators.endpoint import Content, Served, encode_picture


@dataclass(frozen=True, eq=False)
class Endpoint(Served, Captioner):
    """A vision model at an endpoint.

    Args:
        instruction: what is asked; {prompt} is what the picture was made for.
    """

    instruction: str = DESCRIBE

    def __post_init__(self):
        require_template(self.instruction, "{prompt}", self)

    @property
    def asks(self) -> dict[str, Any]:
        return {"instruction": self.instruction}

    @property
    def sample(self) -> Content:
        return self.question(Image.new("RGB", (64, 64), "gray"), "a gray square")

    def question(self, picture: Image.Image, prompt: str) -> Content:
        text = self.instruction.replace("{prompt}", prompt)
        return [{"type": "image_url", "image_url": {"url": encode_picture(picture)}}, {"type": "text", "text": text}]

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        return self.answers([self.question(*asked) for asked in zip(pictures, prompts, strict=True)], seeds)


@dataclass(frozen=True, eq=False)
class EndpointPerturber(InstructedPerturber, Served):
    """A text model at an endpoint."""
