"""A model of a comparison that writes: a base, one with a LoRA, one behind an endpoint, or its finished answers."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.tables import open_table, require_columns
from diffpo.rounds.roles import Sampled
from diffpo.storage.files import require_name
from diffpo.storage.shared_work import shared_out
from diffpo.text.model.endpoint_sampling import EndpointSampler
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base
from diffpo.text.model.lora import inject_saved
from diffpo.text.model.sampling import TextSampler
from diffpo.train.adapters import TRAINED

TAKEN = ("verdicts", "report.json", "report.html", "config.yaml", "files.json")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Answers = list[list[Sampled]]  # of each prompt


@dataclass(frozen=True, eq=False)
class ComparedText:
    """One model of a comparison.

    Args:
        name: in tables and folders.
        base: hub id or folder of a causal language model: of anyone, or what diffpo trained.
        lora: adapters on top, in peft's files: hub id or folder.
        endpoint: a model that is asked there instead; it samples by its own numbers.
        answers: a table of finished answers instead of all that, with the columns `prompt` and `answer`, as many for
            each prompt as are compared; what a comparison writes as `prompts.jsonl` is one.
        chat_template: a Jinja template instead of the base's own.
        revision: of a hub id as base.
        dtype: in which it computes; in bf16 answers depend on the batch more often (`TextSampler`).

    Raises:
        Refusal: if it names none of base, endpoint and answers, or several, or its name cannot be that of a folder.
    """

    name: str
    base: str | None = None
    lora: str | None = None
    endpoint: EndpointSampler | None = None
    answers: str | None = None
    chat_template: str | None = None
    revision: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self):
        if sum(x is not None for x in (self.base, self.endpoint, self.answers)) != 1:
            raise Refusal(f"Model {self.name!r} needs a base, an endpoint or a table of answers: one of the three.")
        if self.lora is not None and self.base is None:
            raise Refusal(f"Model {self.name!r} has a lora without a base; name the base that it was trained on.")
        require_name(self.name, "a model", TAKEN)

    @property
    def source(self) -> str:
        """Where its answers come from, in a line."""
        if self.endpoint is not None:
            return f"{self.endpoint.model}, endpoint"
        return self.answers or " + ".join(filter(None, (self.base, self.lora)))

    @property
    def config(self) -> CausalLM:
        assert self.base is not None
        return CausalLM(self.base, chat_template=self.chat_template, revision=self.revision)

    def identity(self, sampler: TextSampler) -> dict[str, Any]:
        """What its answers depend on besides prompts and draws."""
        if self.endpoint is not None:
            return {"model": self.source, **self.endpoint.identity}
        files = {path: stamp_weights(path) for path in (self.base, self.lora) if path is not None}
        about = {"model": self.source, "files": files, "chat_template": self.chat_template, "dtype": self.dtype}
        return about | sampler.identity

    def check(self) -> None:
        """Raise a Refusal if it cannot be asked; weights are not loaded for that."""
        if self.endpoint is not None:
            self.endpoint.check()
        elif self.base is not None:
            self.config.tokenizing()

    def load(self) -> LoadedCausalLM:
        loaded = load_base(self.config)
        if self.lora is not None:
            inject_saved(loaded.network, self.lora, TRAINED)
            loaded.network.requires_grad_(False).eval()
        loaded.network.to(PartialState().device, TYPES[self.dtype])
        return loaded

    def answer(self, sampler: TextSampler, prompts: Sequence[str], each: int, seed: int, folder: Path) -> Answers:
        """Answers to each prompt; all processes share the work, and the folder keeps what is done.

        Raises:
            Refusal: if a finished answer is missing.
            Interrupted: if an endpoint dies; what it answered is not asked again.
        """
        if self.answers is not None:
            return self.read(prompts, each)
        identity = {**self.identity(sampler), "prompts": digest_of_texts(prompts), "each": each, "seed": seed}
        if self.endpoint is not None:
            return self.ask(self.endpoint, prompts, each, seed, folder, identity, sampler.batch_size)
        loaded, draws = cache(self.load), key_draws(seed, prompts)

        def found(some: Sequence[int]) -> Iterator[Mapping[int, Any]]:
            said = sampler(loaded(), [prompts[n] for n in some], each, draws.of(some))
            yield {n: [asdict(of[i]) for of in said] for i, n in enumerate(some)}

        together = max(1, sampler.batch_size // each)
        done = shared_out(range(len(prompts)), found, together, folder, identity, self.name, "prompt")
        return [[Sampled(**one) for one in done[n]] for n in range(len(prompts))]

    def ask(
        self,
        endpoint: EndpointSampler,
        prompts: Sequence[str],
        each: int,
        seed: int,
        folder: Path,
        identity: Mapping[str, Any],
        together: int,
    ) -> Answers:
        """As `answer`; each answer is kept by itself, for which candidate c of prompt n is number `each` n + c.

        Args:
            together: answers that are kept at a time.
        """
        draws = key_draws(seed, prompts)

        def found(some: Sequence[int]) -> Iterator[Mapping[int, Any]]:
            places, numbers = [number // each for number in some], [number % each for number in some]
            try:
                said = endpoint.answer_each([prompts[n] for n in places], numbers, draws.of(places))
            except Interrupted as error:
                yield {some[i]: asdict(one) for i, one in error.said.items()}
                raise
            yield {number: asdict(one) for number, one in zip(some, said, strict=True)}

        about, count = {**identity, "kept": "answers"}, each * len(prompts)
        done = shared_out(range(count), found, together, folder, about, self.name, "answer")
        return [[Sampled(**done[each * n + c]) for c in range(each)] for n in range(len(prompts))]

    def read(self, prompts: Sequence[str], each: int) -> Answers:
        assert self.answers is not None
        table = open_table(self.answers, "train", None, "answers")
        require_columns(table.column_names, ["prompt", "answer"], self)
        by_prompt = defaultdict[str, list[str]](list)
        for record in table.select_columns(["prompt", "answer"]):
            by_prompt[record["prompt"]].append(record["answer"])  # pyright: ignore
        if lacking := [prompt for prompt in prompts if len(by_prompt[prompt]) < each]:
            raise Refusal(
                f"{self.answers} has {len(by_prompt[lacking[0]])} answers to {lacking[0][:60]!r} ({len(lacking)} such "
                f"prompts of {len(prompts)}), {each} are compared; add them, or lower answers."
            )
        return [[Sampled(text) for text in by_prompt[prompt][:each]] for prompt in prompts]


def key_draws(seed: int, prompts: Sequence[str]) -> Draws:
    """Of each prompt by its place, in the first epoch."""
    return Draws(seed, (0,) * len(prompts), tuple(range(len(prompts))))


def stamp_weights(path: str) -> dict[str, list[int]]:
    """Size and time of the weights in a folder, which tell them from those of a later run; of a hub id none."""
    files = sorted(Path(path).glob("*.safetensors"))
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def digest_of_texts(texts: Sequence[str]) -> str:
    return sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]
