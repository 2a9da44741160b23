from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_runs import SHORT, adamw, diffusion_files, weights

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.inversion import PolicyInversion, ReferenceInversion
from diffpo.diffusion.objective.noising import Among, ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.reference_cache import cache_reference
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO
from diffpo.train.fit import fit
from diffpo.train.reference_cache import require_still
from diffpo.train.run import FitConfig, open_run

LATENTS = 4, 8, 8
SIGMOID = DenoisingPreference(Sigmoid(2000.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return diffusion_files(tmp_path_factory.mktemp("world"))


def data(root: Path, cycle: int | None = 1, **changed) -> PairData:
    return PairData(PairFolder(str(root / "pairs")), framing=Framing(32), workers=0, cycle=cycle, **changed)


def opened(root: Path, folder: Path, objective=SIGMOID, base: StableDiffusion | None = None, **changed):
    """A reference that remembers, and what was made for it."""
    base, pairs, made = base or StableDiffusion(str(root / "base")), data(root), []
    model = base.load()

    def inner():
        made.append(model.reference())
        return made[-1]

    read = changed.pop("data", pairs)
    settings = {"seed": 0, "storage": torch.float32} | changed
    return cache_reference(folder, inner, objective, base, read, pairs.open(0), LATENTS, **settings), made


def train(root: Path, output_dir: Path, remember: Path | None, objective=SIGMOID, steps: int = 6):
    """Six pairs, four a step: six steps are four epochs."""
    run = open_run(FitConfig(**SHORT | {"steps": steps}), output_dir, 0, None, "")
    base = StableDiffusion(str(root / "base"))
    model, read = base.load(), data(root)
    pairs, reference = read.open(0), model.reference()
    if remember:
        reference = cache_reference(
            remember, lambda: model.reference(), objective, base, read, pairs, LATENTS, 0, torch.float32
        )
    fit(objective, model.unet, reference, pairs, model.prepare, adamw(1e-3), run)
    return weights(model.unet), reference


def test_a_sweep_asks_the_reference_once_and_ends_as_without_memory(root, tmp_path):
    ipo = DenoisingPreference(IPO(0.1), scale=5e4)
    plain = [train(root, tmp_path / f"plain{n}", None, objective)[0] for n, objective in enumerate((SIGMOID, ipo))]
    first, computing = train(root, tmp_path / "first", tmp_path / "scores", SIGMOID)
    second, knowing = train(root, tmp_path / "second", tmp_path / "scores", ipo)
    assert computing.computed < 12
    assert (knowing.computed, knowing.looked_up, knowing.inner) == (0, 24, None)
    torch.testing.assert_close(first, plain[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(second, plain[1], rtol=1e-5, atol=1e-7)


def test_noise_found_by_the_base_is_remembered_with_its_errors(root, tmp_path):
    """A sweep over losses inverts no picture again, and ends as it would without memory."""
    inverted = ReferenceInversion(4, refinements=1)
    inpo = DenoisingPreference(Sigmoid(2000.0), noising=inverted)
    ipo = DenoisingPreference(IPO(0.1), noising=inverted, scale=5e4)
    plain = [train(root, tmp_path / f"plain{n}", None, objective)[0] for n, objective in enumerate((inpo, ipo))]
    first, _ = train(root, tmp_path / "first", tmp_path / "answers", inpo)
    second, knowing = train(root, tmp_path / "second", tmp_path / "answers", ipo)
    assert knowing.inner is None
    assert knowing.known["noise"].shape == (1, 6, 2, *LATENTS)
    torch.testing.assert_close(first, plain[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second, plain[1], rtol=1e-4, atol=1e-6)


def test_no_second_network_is_made_once_all_is_known(root, tmp_path):
    train(root, tmp_path / "run", tmp_path / "scores")
    assert opened(root, tmp_path / "scores")[1] == []
    assert [type(made) for made in opened(root, tmp_path / "scores", judges=True)[1]] == [FrozenCopy]


def test_adapters_of_any_rank_share_what_the_whole_network_was_asked(root, tmp_path):
    train(root, tmp_path / "run", tmp_path / "scores")
    base = StableDiffusion(str(root / "base"), adapter=LoRA(rank=3))
    assert opened(root, tmp_path / "scores", base=base)[1] == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"storage": torch.bfloat16}, "precision was 'torch.float32' and is 'torch.bfloat16'"),
        (
            {"objective": DenoisingPreference(noising=ForwardNoise(Among([5])))},
            r"noising was .*Uniform.* and is .*Among",
        ),
        ({"data": {"caption_dropout": 0.5}}, "caption_dropout was 0.2 and is 0.5"),
        ({"data": {"cycle": 2}}, r"shapes was .*\[1, 6, 2\].* and is .*\[2, 6, 2\]"),
    ],
)
def test_what_moves_an_error_is_named(root, tmp_path, changed, said):
    opened(root, tmp_path / "scores")
    changed = {name: data(root, **value) if name == "data" else value for name, value in changed.items()}
    with pytest.raises(Refusal, match=said):
        opened(root, tmp_path / "scores", **changed)


def test_what_cannot_be_remembered_is_refused(root, tmp_path):
    with pytest.raises(Refusal, match="needs draws that repeat; set data.cycle"):
        opened(root, tmp_path, data=data(root, cycle=None))
    with pytest.raises(Refusal, match="DSPO asks its reference cannot be remembered"):
        opened(root, tmp_path, objective=DSPO())
    for walked in (PolicyInversion(), ReferenceInversion(visits=2)):
        with pytest.raises(Refusal, match="InPO asks its reference cannot be remembered"):
            opened(root, tmp_path, objective=InPO(noising=walked))
    with pytest.raises(Refusal, match="set reference or reference_cache to null"):
        require_still(partial(FrozenCopy))
