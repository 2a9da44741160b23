from dataclasses import replace

import pytest
import torch
from tiny import WIDTH, denoiser, draws, image_batch, moved

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, Reverse
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.methods.npo import GuidedResidual, JointGuidance
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid


def batch_with_empty():
    empty = torch.randn(1, 1, 5, WIDTH, generator=torch.Generator().manual_seed(9))
    return replace(image_batch(), empty=Conditioning({"prompt": empty}))


def reversed_batch(batch):
    return replace(batch, latents=batch.latents.flip(0))


def test_reversed_pairs_add_the_margin_to_the_loss():
    """-log sigmoid(-z) = -log sigmoid(z) + z: L_NPO(w, l) = L_DPO(l, w)."""
    policy, objective = denoiser(), DenoisingPreference(Sigmoid(beta=500.0))
    reference = FrozenCopy(policy.unet)
    moved(policy.unet)
    as_labeled, turned = (
        objective(policy, reference, x, draws()) for x in (image_batch(), reversed_batch(image_batch()))
    )
    z = as_labeled.metrics["rewards/margins"].mean()
    torch.testing.assert_close(turned.loss - as_labeled.loss, z, rtol=1e-4, atol=1e-5)


def test_a_reversed_row_is_what_reversed_pairs_train_on():
    row = Reverse()(PairRow(0, ("p", "p"), ("better", "worse")), draws(1))
    assert row is not None
    assert row.candidates == ("worse", "better")


def test_joint_guidance_starts_at_log_2():
    policy = denoiser()
    step = JointGuidance()(policy, FrozenCopy(policy.unet), batch_with_empty(), draws())
    torch.testing.assert_close(step.loss, torch.tensor(2.0).log())


def test_the_trained_branch_enters_with_one_minus_guidance():
    policy, batch = denoiser(), batch_with_empty()
    noised = ForwardNoise()(policy, None, batch, draws())
    conditional = torch.zeros_like(batch.latents)
    base = policy.out(noised.x_t, noised.t, batch.unconditional)
    guided = GuidedResidual(policy, noised, conditional, guidance=5.0)(policy.unet) + noised.eps
    torch.testing.assert_close(guided, (1 - 5.0) * base)


def test_the_frozen_branch_alone_is_told_the_prompt():
    policy, batch, told = denoiser(), batch_with_empty(), []
    reference = FrozenCopy(policy.unet)
    for name, network in (("trained", policy.unet), ("frozen", reference.model)):
        network.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: told.append((name, kwargs["encoder_hidden_states"][:3])),
            with_kwargs=True,
        )
    JointGuidance()(policy, reference, batch, draws())
    assert [name for name, _ in told] == ["frozen", "frozen", "trained"]
    assert torch.equal(told[0][1], batch.cond.states["prompt"][0])
    assert all(torch.equal(said, batch.unconditional.states["prompt"][0]) for _, said in told[1:])


def test_gradients_of_the_trained_branch_are_turned_round():
    """d eps / d eps_theta = 1 - g, so what improves the guided prediction moves the branch the other way."""
    policy, batch = denoiser(), batch_with_empty()
    noised, bias = ForwardNoise()(policy, None, batch, draws()), policy.unet.conv_out.bias
    guided = GuidedResidual(policy, noised, torch.zeros_like(batch.latents), guidance=5.0)(policy.unet)
    alone = policy.eps(noised.x_t, noised.t, batch.unconditional)
    turned, straight = (torch.autograd.grad(x.sum(), bias)[0] for x in (guided, alone))
    torch.testing.assert_close(turned, (1 - 5.0) * straight)


def test_a_batch_without_the_empty_prompt_is_refused():
    policy = denoiser()
    with pytest.raises(Refusal, match="lacks the empty prompt; load the base with unconditional=True"):
        JointGuidance()(policy, FrozenCopy(policy.unet), image_batch(), draws())


def test_guidance_that_is_off_is_refused():
    with pytest.raises(Refusal, match="needs a guidance above 1, got 1"):
        JointGuidance(guidance=1.0)


def test_its_reference_cannot_be_remembered():
    assert JointGuidance().requires.cacheable_by is None
    assert JointGuidance().requires.answers == ("noise", "scores")
