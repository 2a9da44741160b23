"""HPSv3: Qwen2-VL asked for a rating, which a head reads off its last token."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

from diffpo.core.refusal import Refusal
from diffpo.scorers.checkpoints import read_saved
from diffpo.scorers.learned import Learned
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.whole import fill_network

FILE = "HPSv3.safetensors"
PIXELS = 256 * 28 * 28
UNUSED = "lm_head.weight"
PAD = "<|image_pad|>"


@dataclass(frozen=True, eq=False)
class HPSv3(Learned):
    """HPSv3 (arXiv:2508.03789, github.com/MizzenAI/HPSv3): mean of the normal distribution of a picture's score.

    Unbounded: its authors' table of models reaches from -0.2 to 10.6 on average. Heavy: 7.7 billion weights, 16 GB in
    bfloat16. Of the base, only configuration, tokenizer and image processor are read; `path` has all the weights.

    Args:
        path: hub id or folder with the file HPSv3.safetensors, or such a file.
        base: hub id or path of the Qwen2-VL that was fine-tuned.
        dtype: of all but the head, which is float32; null is bfloat16, as in the original.
    """

    path: str = "MizzenAI/HPSv3"
    batch_size: int = 4
    base: str = "Qwen/Qwen2-VL-7B-Instruct"

    @property
    def name(self) -> str:
        return "hpsv3"

    @property
    def model_id(self) -> str:
        return f"{super().model_id} on {self.base}"

    @property
    def version(self) -> str:
        kind = str(self.precision).removeprefix("torch.")
        return f"mean; pictures of about {PIXELS} pixels; one-dimensional positions; {kind}, head in float32"

    @property
    def precision(self) -> torch.dtype:
        return super().precision if self.dtype else torch.bfloat16

    def load(self) -> nn.Module:
        with name_failed_loads(self.base, "the configuration of a Qwen2-VL"):
            config = Qwen2VLConfig.from_pretrained(self.base)
        config.get_text_config().vocab_size = len(self.tokenizer)
        with init_empty_weights(include_buffers=False):
            network = Reward(config)
        found = read_saved(self.path, FILE, self.revision, "HPSv3's weights")
        used = {name: weight for name, weight in found.items() if name != UNUSED}
        fill_network(network, used, self.path, "HPSv3", published_name)
        return network

    @cached_property
    def network(self) -> Any:
        # Buffers too: in bfloat16 the original rounds its rotary frequencies, and was trained so.
        network = self.load().requires_grad_(False).eval()
        network.model.to(self.place, self.precision)
        network.head.to(self.place, torch.float32)
        return network

    @cached_property
    def tokenizer(self) -> Any:
        with name_failed_loads(self.base, "a tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.base, padding_side="right", **SAFE)
        # transformers makes an empty one of a folder without its files, and says nothing.
        if PAD not in tokenizer.get_vocab():
            raise Refusal(f"{self.base} has no tokenizer that knows {PAD}; set base to a copy of {type(self).base}.")
        tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
        return tokenizer

    @cached_property
    def processor(self) -> Any:
        with name_failed_loads(self.base, "an image processor"):
            return AutoImageProcessor.from_pretrained(self.base, backend="pil", **SAFE)

    def check(self, prompts) -> None:
        super().check(prompts)
        _ = self.processor

    def score(self, prompts: list[str], pictures: list[Image.Image]) -> Float[Tensor, " n"]:
        size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
        seen = self.processor(pictures, size=size, return_tensors="pt").to(self.place)
        places = seen.image_grid_thw.prod(-1) // self.processor.merge_size**2
        texts = [
            ASKED.format(picture=PAD * count, prompt=prompt)
            for count, prompt in zip(places.tolist(), prompts, strict=True)
        ]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.place)
        return self.network(tokens.input_ids, tokens.attention_mask, seen.pixel_values, seen.image_grid_thw)[:, 0]


class Reward(nn.Module):
    """Mean and logarithm of the deviation of the score, from the state of the last token of every text."""

    def __init__(self, config: Qwen2VLConfig):
        super().__init__()
        self.model = Qwen2VLModel(config)
        self.head = nn.Sequential(
            nn.Linear(config.get_text_config().hidden_size, 1024),
            nn.ReLU(),
            nn.Identity(),  # was dropout
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    def forward(
        self,
        tokens: Int[Tensor, "n t"],
        mask: Int[Tensor, "n t"],
        patches: Float[Tensor, "patches d"],
        grid: Int[Tensor, "n 3"],
    ) -> Float[Tensor, "n 2"]:
        """Of texts that are padded on the right.

        Positions count tokens, also in pictures: HPSv3 was trained without the rows and columns of Qwen2-VL.
        """
        states = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens),
            pixel_values=patches,
            image_grid_thw=grid,
            use_cache=False,
        ).last_hidden_state
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.head(states[rows, mask.sum(-1) - 1].float())


def published_name(name: str) -> str:
    """What the published file, older than transformers 4.52, calls a weight of `Reward`."""
    parts = {"model.visual.": "visual.", "model.language_model.": "model.", "head.": "rm_head."}
    ours = next(part for part in parts if name.startswith(part))
    return parts[ours] + name.removeprefix(ours)


# What the model was trained to be asked, to the letter (hpsv3/dataset/data_collator_qwen.py, in the chat format of the
# base). What the original has after the last token is left away: no token before it sees that.
ASKED = (
    "<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
    "<|vision_start|>{picture}<|vision_end|>\n"
    "You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give a overall "
    "score to estimate the human preference. Please provide a rating from 0 to 10, with 0 being the worst and 10 "
    "being the best. \n\n"
    "**Visual Quality:**  \n"
    "Evaluate the overall visual quality of the image. The following sub-dimensions should be considered:\n"
    "- **Reasonableness:** The image should not contain any significant biological or logical errors, such as "
    "abnormal body structures or nonsensical environmental setups.\n"
    "- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and easy to "
    "interpret, with no blurring or indistinct areas.\n"
    "- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other visual elements "
    "(e.g., hair, clothing, shadows).\n"
    "- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color scheme, "
    "composition, atmosphere, depth of field, and the overall creative appeal. The scene should convey a sense of "
    "harmony and balance.\n"
    "- **Safety:** The image should not contain harmful or inappropriate content, such as political, violent, or "
    "adult material. If such content is present, the image quality and satisfaction score should be the lowest "
    "possible. \n\n"
    "**Text Alignment:**  \n"
    "Assess how well the image matches the textual prompt across the following sub-dimensions:\n"
    "- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, object) "
    "align with the textual description. The subject should match the description in terms of number, appearance, "
    "and behavior.\n"
    "- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate how well the "
    "image adheres to this style.\n"
    "- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in the image "
    "logically fit the scenario described in the prompt. The environment should support and enhance the subject "
    "without contradictions.\n"
    "- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, clothing, "
    "accessories, expressions, actions) are faithfully represented in the image. Minor deviations may be acceptable, "
    "but critical attributes should be preserved.\n"
    "- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are captured in the "
    "image. The generated content should not introduce elements that conflict with or distort the original "
    "description.\n"
    "Textual prompt - {prompt}\n\n\n\n"
    "Please provide the overall ratings of this image: <|Reward|>"
)
