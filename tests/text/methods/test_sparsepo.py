from dataclasses import dataclass, replace
from math import log

import torch
from tiny_text import language_model, token_batch
from torch.nn.functional import logsigmoid

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.losses.logistic import Sigmoid
from diffpo.text.methods.sparsepo import SparsePO
from diffpo.text.model.likelihoods import token_logits, token_logps
from diffpo.text.objective.masks import ActivationMask, EveryToken, LearnedMasks, Masks, TokenMask
from diffpo.text.objective.preference import SequencePreference

BATCH = token_batch()
SCORED = BATCH.scored[..., 1:]
DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))


@dataclass(frozen=True)
class Scale(TokenMask):
    """Log-ratios times one number, divergences times another."""

    ratio: float
    divergence: float

    def __call__(self, policy, reference, batch):
        ones = batch.scored[..., 1:].float()
        return Masks(self.ratio * ones, self.divergence * ones, torch.zeros(batch.ids.shape[1]))


def step(mask, beta=0.8, batch=BATCH):
    return SparsePO(Sigmoid(beta), mask)(language_model(0), FrozenCopy(language_model(1)), batch, DRAWS)


def test_loss_is_log_2_and_the_cost_where_policy_is_reference():
    policy, objective = language_model(), SparsePO(mask=LearnedMasks(l1=0.01))
    reference = FrozenCopy(policy)
    objective.attach(policy, 0)
    cost = objective.mask(policy, reference, BATCH).cost.mean()
    torch.testing.assert_close(objective(policy, reference, BATCH, DRAWS).loss, log(2) + cost)


def test_plain_masks_are_dpo():
    dpo = SequencePreference(Sigmoid(0.8))(language_model(0), FrozenCopy(language_model(1)), BATCH, DRAWS)
    torch.testing.assert_close(step(Scale(1, 0)).loss, dpo.loss)
    torch.testing.assert_close(step(Scale(1, 0)).metrics["rewards/chosen"], dpo.metrics["rewards/chosen"])


def test_scaling_the_masks_is_scaling_beta():
    torch.testing.assert_close(step(Scale(2.5, 0), beta=0.2).loss, step(Scale(1, 0), beta=0.5).loss)


def test_every_token_is_tdpo_by_hand():
    """z = beta (u_w - u_l + KL_w - KL_l): the first form of TDPO (arXiv:2404.11999)."""
    models = language_model(0), language_model(1)
    log_p, log_r = (token_logits(model, BATCH).detach().log_softmax(-1) for model in models)
    divergence = ((log_r.exp() * (log_r - log_p)).sum(-1) * SCORED).sum(-1)
    ratio = sum(sign * token_logps(model, BATCH).detach() for sign, model in zip((1, -1), models, strict=True)).sum(-1)
    (u_w, u_l), (kl_w, kl_l) = ratio, divergence
    torch.testing.assert_close(step(EveryToken()).loss, -logsigmoid(0.8 * (u_w - u_l + kl_w - kl_l)).mean())


def test_gradient_lets_the_chosen_side_move_away_and_holds_the_rejected():
    """By the divergences alone: a step widens that of the chosen side against that of the rejected."""
    policy, reference, objective = language_model(0), FrozenCopy(language_model(1)), SparsePO(mask=Scale(0, 1))
    before = objective(policy, reference, BATCH, DRAWS)
    before.loss.backward()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 0.1 * p.grad
    after = objective(policy, reference, BATCH, DRAWS)
    assert after.loss < before.loss
    assert after.metrics["rewards/margins"].mean() > before.metrics["rewards/margins"].mean()


def test_padding_changes_nothing():
    """A longer batch: more tokens that nobody attends to."""

    def longer(x):
        return torch.cat([x, torch.zeros_like(x[..., :2])], -1)

    padded = replace(BATCH, **{name: longer(getattr(BATCH, name)) for name in ("ids", "attended", "scored", "part")})
    for mask in (EveryToken(), ActivationMask()):
        torch.testing.assert_close(step(mask).loss, step(mask, batch=padded).loss)


def test_density_is_the_share_of_tokens_that_count():
    assert torch.equal(step(EveryToken()).metrics["mask/density"], torch.ones(3))
    assert torch.equal(step(Scale(0, 1)).metrics["mask/density"], torch.zeros(3))
    torch.testing.assert_close(step(Scale(0.3, 1)).metrics["mask/mean"], torch.full((3,), 0.3))


def test_masks_and_policy_are_trained_together():
    policy, objective = language_model(0), SparsePO(mask=LearnedMasks())
    reference = FrozenCopy(language_model(1))
    objective.attach(policy, 0)
    objective(policy, reference, BATCH, DRAWS).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.parameters())
