import json

import pytest
import torch
from tiny import pair_folder, saved, saved_xl

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder, PromptsOnly
from diffpo.data.mixture import Mixed
from diffpo.data.pairs import require_suits
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import require_encodable
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.self_npo import SelfNPO
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.trajectories import FromNoise

PROMPTS = ["a red circle", "a blue cross", "a green square"]


def data(folder, **changed) -> PairData:
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    return PairData(PromptsOnly(str(folder / "prompts.jsonl")), framing=Framing(resolution=32), workers=0, **changed)


def first(folder):
    pairs = data(folder, caption_dropout=0.0).open()
    return next(iter(pairs.batches(ProcessShare(3, 0, 0, 1, first=0)))), pairs


def test_every_prompt_is_visited_and_nothing_is_decoded(tmp_path):
    batch, pairs = first(tmp_path)
    assert sorted(batch.prompts[0]) == sorted(PROMPTS)
    assert (batch.pictures, len(batch.prompts)) == (0, 1)
    assert "3 of 3 rows were kept" in pairs.report()


@pytest.mark.parametrize("save", [saved, saved_xl])
def test_a_batch_has_the_shape_of_pictures_to_come(tmp_path, save):
    model = StableDiffusion(save(tmp_path / "base")).load(unconditional=True)
    batch, _ = first(tmp_path)
    _, found = model.prepare(model.unet, batch, Draws(0, batch.epoch, batch.row))
    assert found.latents.shape == (1, 3, 4, 8, 8)
    assert not found.latents.any()
    assert found.unconditional.states["prompt"].shape == found.cond.states["prompt"].shape
    assert found.cond.picture["time_ids"][0].tolist() == [[32, 32, 0, 0, 32, 32]] * 3
    assert torch.equal(found.unconditional.picture["time_ids"], found.cond.picture["time_ids"])


def test_objectives_that_need_pictures_are_refused(tmp_path):
    model = StableDiffusion(saved(tmp_path / "base")).load()
    pairs = data(tmp_path).open()
    model.first(pairs)
    require_suits(SelfNPO(FromNoise()), pairs)
    for objective, takes in ((DenoisingPreference(), "2"), (SelfNPO(), "1 or more"), (KTO(), "1 to 2")):
        with pytest.raises(Refusal, match=f"takes {takes} candidates per row, rows have 0; choose another objective"):
            require_suits(objective, pairs)


def test_prompts_are_not_mixed_with_pictures(tmp_path):
    pair_folder(tmp_path / "pairs")
    prompts = data(tmp_path).source
    with pytest.raises(Refusal, match="candidates per row|mixed with pictures"):
        PairData(Mixed([prompts, PairFolder(str(tmp_path / "pairs"))], [1.0, 1.0])).open()


def test_prompts_alone_are_not_encoded(tmp_path):
    with pytest.raises(Refusal, match="read for prompts alone"):
        require_encodable(data(tmp_path))
