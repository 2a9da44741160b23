"""Let a language model answer prompts: the first stage of a round, alone.

diffpo sample --sampler diffpo.text.TextSampler --base.path assets/tiny-lm --prompts.path asked.jsonl --folder answers
"""

from pathlib import Path

from jsonargparse import set_parsing_settings

from diffpo.commands.train_rounds import word_prompts
from diffpo.core.refusal import Refusal
from diffpo.evaluation.prompts import Prompts
from diffpo.rounds.roles import Sampler
from diffpo.rounds.stages import sample_candidates
from diffpo.rounds.tables import CANDIDATES
from diffpo.storage.job_folder import meet_processes
from diffpo.text.model.endpoint_sampling import EndpointSampler
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base, load_tuned

set_parsing_settings(subclasses_enabled=[CausalLM])


def main(
    sampler: Sampler,
    prompts: Prompts,
    folder: Path,
    base: CausalLM | None = None,
    weights: Path | None = None,
    k: int = 2,
    seed: int = 0,
    number: int = 0,
    settings: str = "",
) -> None:
    """Let a language model answer prompts: the first stage of a round, alone.

    Args:
        sampler: how, e.g. diffpo.text.TextSampler, or diffpo.text.EndpointSampler.
        prompts: that are answered.
        folder: gets candidates.parquet. After a kill, the same command goes on where it stopped.
        base: the model that answers; null if an endpoint does.
        weights: folder of what a run has trained on that base; null is the base itself.
        k: answers to each prompt.
        seed: of the draws.
        number: of the round, which the draws depend on, too.
        settings: the resolved config.
    """
    if base is None and not isinstance(sampler, EndpointSampler):
        raise Refusal(f"{type(sampler).__name__} needs a model; name it in base.path, or ask an endpoint.")
    state = meet_processes()
    asked = word_prompts(prompts, sampler)

    def load() -> LoadedCausalLM | None:
        if base is None:
            return None
        loaded = load_base(base) if weights is None else load_tuned(base, weights)
        loaded.network.to(state.device)
        return loaded

    model = str(weights or (base.path if base else sampler.identity.get("model_id")))
    sample_candidates(folder, asked, sampler, load, k, seed, number, model)
    if state.is_main_process:
        print(f"{folder / CANDIDATES} holds {k} answers to each of {len(asked)} prompts. Next: diffpo judge.")
