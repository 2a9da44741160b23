from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import denoiser, drawn, draws, image_batch, pipeline, saved, saved_xl, trained, unet

from diffpo.cli.command import parse
from diffpo.core.references import SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.attention import FlashAttention
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.users.attention import KERNELS, load_user_attention, user_input
from diffpo.diffusion.users.branch import UserBranch
from diffpo.losses.logistic import Sigmoid
from diffpo.train.state.training_state import TrainingState

TOKENS, FEATURES = 3, 6
BRANCH = UserBranch(TOKENS, FEATURES, rank=2)
BOTH = replace(BRANCH, lora=LoRA(rank=2))
DPO = DenoisingPreference(Sigmoid(2000.0))
USERS = torch.randn(3, TOKENS, FEATURES, generator=torch.Generator().manual_seed(3))


def batch_of(users: torch.Tensor = USERS) -> ImageBatch:
    """A pair for each user; both sides are told the same one."""
    raw = image_batch(len(users))
    return replace(raw, cond=replace(raw.cond, user=users.expand(2, -1, -1, -1)))


def said(network, batch: ImageBatch) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(network).eps(batch.latents, torch.full((len(batch.row),), 500), batch.cond)


def personal(adapter: UserBranch = BRANCH):
    """A network whose adapter is trained."""
    network = unet()
    adapter.attach(network)
    return trained(network, 0.3)


def step(network, batch: ImageBatch, adapter: UserBranch = BRANCH):
    return DPO(denoiser(network), SwitchedOff(network, adapter.off), batch, draws(len(batch.row)))


@pytest.mark.parametrize("adapter", [BRANCH, BOTH])
def test_the_loss_is_log_2_at_the_start_and_not_later(adapter):
    network = unet()
    adapter.attach(network)
    assert step(network, batch_of(), adapter).loss.item() == pytest.approx(np.log(2), abs=1e-7)
    assert step(personal(adapter), batch_of(), adapter).loss.item() != pytest.approx(np.log(2), abs=1e-3)


def test_only_the_branch_has_gradients():
    network = personal()
    step(network, batch_of()).loss.backward()
    moving = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moving == {name for name, _ in network.named_parameters() if ".user_" in f".{name}"}


@pytest.mark.parametrize("adapter", [BRANCH, BOTH])
def test_switched_off_it_is_the_base_bitwise_and_comes_back(adapter):
    network, base, batch = personal(adapter), said(unet(), image_batch()), batch_of()
    tuned, flags = said(network, batch), [p.requires_grad for p in network.parameters()]
    assert torch.equal(SwitchedOff(network, adapter.off)(lambda n: said(n, batch)), base)
    assert torch.equal(said(network, batch), tuned)
    assert not torch.allclose(tuned, base, atol=1e-3)
    assert [p.requires_grad for p in network.parameters()] == flags


def test_the_switch_survives_an_error_inside():
    network = personal()
    with pytest.raises(KeyboardInterrupt), BRANCH.off(network):
        raise KeyboardInterrupt
    assert user_input(network).on


def test_shuffled_users_change_the_loss_and_both_sides_are_told_the_same():
    network = personal()
    batch = batch_of()
    assert torch.equal(*batch.cond.exchanged().user)
    assert step(network, batch).loss.item() != pytest.approx(step(network, batch_of(USERS.roll(1, 0))).loss.item())


def test_opposite_wishes_cancel_for_one_user_and_not_for_two():
    """Gradients at the start, of one pair in both orders: all that is learned is about users."""

    def slope(other: torch.Tensor) -> torch.Tensor:
        network = unet()
        BRANCH.attach(network)
        liked, disliked = batch_of(USERS[:1]), batch_of(other[None])
        disliked = replace(disliked, latents=disliked.latents.flip(0))
        (step(network, liked).loss + step(network, disliked).loss).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad]).abs().max()

    assert slope(USERS[0]) < 1e-4 * slope(USERS[1])


def test_gradient_checkpointing_changes_no_bit_of_a_gradient():
    def gradient(checkpointing: bool) -> torch.Tensor:
        network = personal(BOTH).train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        step(network, batch_of(), BOTH).loss.backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    assert torch.equal(gradient(True), gradient(False))


def test_a_new_branch_is_a_function_of_the_seed_and_leaves_the_global_generator_alone():
    def start(seed: int) -> torch.Tensor:
        network = unet()
        BRANCH.attach(network, seed)
        return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])

    networks = unet()
    state = torch.get_rng_state()
    BRANCH.attach(networks)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


@pytest.mark.parametrize("make", [saved, saved_xl])
@pytest.mark.parametrize("adapter", [BRANCH, BOTH], ids=["alone", "with a LoRA"])
def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path, make, adapter):
    config = StableDiffusion(str(make(tmp_path / "base")), adapter=adapter)
    model = config.load()
    trained(model.unet, 0.3)
    model.save(tmp_path / "run")
    loaded = load_tuned(config, tmp_path / "run")
    mine, theirs = (
        {n: p for n, p in u.state_dict().items() if ".user_" in f".{n}"} for u in (model.unet, loaded.unet)
    )
    assert mine.keys() == load_file(tmp_path / "run" / "user_attention.safetensors").keys()
    assert all(torch.equal(p, theirs[name]) for name, p in mine.items())
    assert np.array_equal(drawn(loaded), drawn(model.pipeline()))
    lora = tmp_path / "run" / "pytorch_lora_weights.safetensors"
    assert lora.exists() == (adapter is BOTH)
    assert not lora.exists() or not any("user_" in name for name in load_file(lora))


@pytest.mark.parametrize("place", ["run", "run/user_attention.safetensors"])
def test_a_branch_that_is_not_what_was_written_is_refused(tmp_path, place):
    config = StableDiffusion(str(saved(tmp_path / "base")), adapter=BRANCH)
    config.load().save(tmp_path / "run")
    file = tmp_path / "run" / "user_attention.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Refusal, match="user_attention.safetensors holds something else than was written; copy"):
        load_user_attention(load_pipeline(config).unet, str(tmp_path / place))


def test_the_lines_of_the_model_card_load_it(tmp_path):
    theirs, mine = pipeline(), pipeline()
    BOTH.attach(theirs.unet)
    trained(theirs.unet, 0.3)
    BOTH.save(theirs, tmp_path)
    exec("\n".join(BOTH.snippet(str(tmp_path))), {"pipe": mine})
    torch.testing.assert_close(said(mine.unet, batch_of()), said(theirs.unet, batch_of()))
    assert BOTH.tags == ("personalization", "lora", "template:diffusion-lora")


def test_the_chosen_kernel_is_that_of_the_branch_too(tmp_path):
    unet = StableDiffusion(saved(tmp_path), attention="flash", adapter=BRANCH).load().unet
    assert {layer.processor.kernel for layer in user_input(unet).attentions} == {KERNELS[FlashAttention]}


def test_a_checkpoint_holds_the_branch(tmp_path):
    network = personal()
    state = TrainingState(Accelerator(), network)
    want = said(network, batch_of())
    state.save(tmp_path)
    trained(network)
    state.load(tmp_path)
    assert torch.equal(said(network, batch_of()), want)


def test_a_config_says_branch_and_lora():
    def main(adapter: UserBranch) -> None: ...

    told = ["--adapter.tokens=29", "--adapter.width=3584", "--adapter.lora=diffpo.diffusion.LoRA"]
    objects, _ = parse(main, [*told, "--adapter.lora.init_args.rank=4"])
    assert objects["adapter"] == UserBranch(29, 3584, lora=LoRA(4))


def test_sizes_below_one_are_refused_and_so_is_a_switch_without_a_branch():
    with pytest.raises(Refusal, match="of at least 1, got 0, 6 and 32"):
        UserBranch(0, 6)
    with pytest.raises(Refusal, match="UNet2DConditionModel has no user attention; load it"), BRANCH.off(unet()):
        pass


def test_the_same_branch_is_written_as_the_same_bytes(tmp_path):
    pipe = pipeline()
    BRANCH.attach(pipe.unet)
    for number in range(8):  # the library orders metadata by chance
        BRANCH.save(pipe, tmp_path / str(number))
    assert len({file.read_bytes() for file in tmp_path.glob("*/user_attention.safetensors")}) == 1
