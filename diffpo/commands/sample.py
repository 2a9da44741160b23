"""Let a model answer prompts, in words or in pictures: the first stage of a round, alone.

diffpo sample --sampler diffpo.text.TextSampler --base.path assets/tiny-lm --prompts.path asked.jsonl --folder answers
diffpo sample --sampler diffpo.diffusion.PictureSampler --pipeline.path my-sd --prompts.path asked.txt --folder drawn
"""

from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings

from diffpo.commands.train_rounds import word_prompts
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline
from diffpo.diffusion.model.loading import load_tuned as load_drawing
from diffpo.evaluation.prompts import Prompts
from diffpo.rounds.roles import Sampler
from diffpo.rounds.stages import sample_candidates
from diffpo.rounds.tables import CANDIDATES
from diffpo.storage.job_folder import meet_processes
from diffpo.text.model.endpoint_sampling import EndpointSampler
from diffpo.text.model.loading import CausalLM, load_base, load_tuned

set_parsing_settings(subclasses_enabled=[CausalLM])


def main(
    sampler: Sampler,
    prompts: Prompts,
    folder: Path,
    base: CausalLM | None = None,
    pipeline: StableDiffusion | None = None,
    weights: Path | None = None,
    k: int = 2,
    seed: int = 0,
    number: int = 0,
    settings: str = "",
) -> None:
    """Let a model answer prompts, in words or in pictures: the first stage of a round, alone.

    Args:
        sampler: how, e.g. diffpo.text.TextSampler, diffpo.text.EndpointSampler or diffpo.diffusion.PictureSampler.
        prompts: that are answered.
        folder: gets candidates.parquet, and pictures/ beside it. After a kill, the same command goes on where it
            stopped.
        base: the language model that answers; null if an endpoint does.
        pipeline: the text-to-image model that draws, for a sampler of pictures.
        weights: folder of what a run has trained on that model; null is the model itself.
        k: answers to each prompt.
        seed: of the draws.
        number: of the round, which the draws depend on, too.
        settings: the resolved config.
    """
    draws = sampler.makes == "pictures"
    if draws and pipeline is None:
        raise Refusal(f"{type(sampler).__name__} needs a text-to-image model; name it in pipeline.path.")
    if not draws and base is None and not isinstance(sampler, EndpointSampler):
        raise Refusal(f"{type(sampler).__name__} needs a model; name it in base.path, or ask an endpoint.")
    if (base if draws else pipeline) is not None:
        raise Refusal(f"{type(sampler).__name__} takes no {'base' if draws else 'pipeline'}; leave it out.")
    state = meet_processes()
    asked = word_prompts(prompts, sampler)

    def load() -> Any:
        if pipeline is not None:
            return load_pipeline(pipeline) if weights is None else load_drawing(pipeline, weights)
        if base is None:
            return None
        loaded = load_base(base) if weights is None else load_tuned(base, weights)
        loaded.network.to(state.device)
        return loaded

    named = base or pipeline
    model = str(weights or (named.path if named else sampler.identity.get("model_id")))
    sample_candidates(folder, asked, sampler, load, k, seed, number, model)
    if state.is_main_process:
        print(f"{folder / CANDIDATES} holds {k} answers to each of {len(asked)} prompts. Next: diffpo judge.")
