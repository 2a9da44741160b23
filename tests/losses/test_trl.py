"""The installed TRL against ours: its trainer's own log-likelihoods go into our losses, and the results agree.

Values and gradients. No formula of TRL is written here. Where it differs on purpose, the name of the test says so.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from tiny import moved
from tiny_losses import labels, likely
from tiny_text import VOCABULARY, language_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diffpo.core.objective import pair_step
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.losses.combined import AOT, LengthNormalised, Sum
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.likelihood import ChosenNLL
from diffpo.losses.logistic import EXO, DiscoPOP, Robust, Sigmoid
from diffpo.losses.margin import IPO, Hinge
from diffpo.losses.reference_free import CPO, ORPO, SimPO
from diffpo.losses.two_sided import BCO, NCA, SPPO, APODown, APOZero
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps

trl = pytest.importorskip("trl")
cpo, orpo = pytest.importorskip("trl.experimental.cpo"), pytest.importorskip("trl.experimental.orpo")

BETA = 0.3
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def policy_network() -> torch.nn.Module:
    """One that has left its reference."""
    return moved(language_model(0), by=0.3)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """TRL's, on four pairs of nonsense."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    rows = [
        {"prompt": "w1 w2", "chosen": " w3 w4 w5 </s>", "rejected": " w6 </s>"},
        {"prompt": "w7", "chosen": " w8 </s>", "rejected": " w9 w10 w11 w12 </s>"},
        {"prompt": "w2 w13 w14", "chosen": " w15 w16 </s>", "rejected": " w17 w18 </s>"},
        {"prompt": "w19", "chosen": " w20 w21 w22 w23 w24 </s>", "rejected": " w25 w26 w27 </s>"},
    ]
    folder = str(tmp_path_factory.mktemp("trl"))
    AcceleratorState._reset_state(reset_partial_state=True)
    with torch.random.fork_rng():
        yield trl.DPOTrainer(
            policy_network(),
            language_model(0),
            trl.DPOConfig(folder, per_device_train_batch_size=4, report_to="none", bf16=False),
            train_dataset=Dataset.from_list(rows),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
        )
    AcceleratorState._reset_state(reset_partial_state=True)


def batch_of(trainer) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(4)])


def tokens_of(trainer, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """TRL's loss, and log-likelihoods of each token under its policy and its reference."""
    said = []
    hooks = [
        model.register_forward_hook(lambda module, inputs, output: said.append(output.log_probs))
        for model in (trainer.model, trainer.ref_model)
    ]
    loss = trainer.compute_loss(trainer.model, batch)
    for hook in hooks:
        hook.remove()
    return loss, said


def compare(trainer, loss: PairLoss, prob: float = 1.0, **settings) -> None:
    """One batch through TRL's loss under `settings`; what its two networks said of each token goes into ours."""
    defaults = {"beta": BETA, "label_smoothing": 0.0, "f_divergence_type": "reverse_kl", "loss_weights": [1.0]}
    for name, value in (defaults | settings).items():
        setattr(trainer, name, value)
    batch = batch_of(trainer)
    theirs, (tokens, frozen) = tokens_of(trainer, batch)
    (pulled,) = torch.autograd.grad(theirs, tokens)

    leaf = tokens.detach().clone().requires_grad_()
    policy, reference = leaf.sum(-1).unflatten(0, (2, 4)), frozen.sum(-1).unflatten(0, (2, 4))
    lengths = batch["completion_mask"].sum(-1).float().unflatten(0, (2, 4))
    ours = pair_step(loss, PairLogps(policy, reference, lengths), labels(prob, 4)).loss
    assert (policy - reference).abs().min() > 0.01
    torch.testing.assert_close(ours, theirs, **CLOSE)
    scored = batch["completion_mask"][:, 1:].bool()
    torch.testing.assert_close(torch.autograd.grad(ours, leaf)[0][scored], pulled[scored], **CLOSE)


def test_log_likelihoods_of_the_same_tokens_agree(trainer):
    batch = batch_of(trainer)
    trainer.loss_types, trainer.loss_weights = ["sigmoid"], [1.0]
    theirs = tokens_of(trainer, batch)[1][0]
    ids, attended, scored = (
        batch[name].unflatten(0, (2, 4)) for name in ("input_ids", "attention_mask", "completion_mask")
    )
    ours = TokenBatch(
        ids, attended.bool(), scored.bool(), scored, PairLabels.hard(4), row=(0, 1, 2, 3), epoch=(0, 0, 0, 0)
    )
    torch.testing.assert_close(token_logps(policy_network(), ours).flatten(0, 1), theirs, **CLOSE)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("sigmoid", Sigmoid(BETA)),
        ("hinge", Hinge(BETA)),
        ("nca_pair", NCA(BETA)),
        ("sppo_hard", SPPO(BETA)),
        ("apo_zero", APOZero(BETA)),
        ("apo_down", APODown(BETA)),
        ("aot", AOT(Sigmoid(BETA))),
        ("sigmoid_norm", LengthNormalised(Sigmoid(BETA))),
    ],
)
def test_value_and_gradient_agree(trainer, kind, loss):
    compare(trainer, loss, loss_types=[kind])


def test_robust_and_exo_read_trl_label_smoothing_as_their_own_rate(trainer):
    compare(trainer, Robust(BETA, 0.2), loss_types=["robust"], label_smoothing=0.2)
    compare(trainer, EXO(BETA, 0.2), loss_types=["exo_pair"], label_smoothing=0.2)


def test_discopop_agrees_at_trl_tau(trainer):
    compare(trainer, DiscoPOP(BETA, trainer.args.discopop_tau), loss_types=["discopop"])


def test_label_smoothing_of_aot_is_a_soft_label(trainer):
    compare(trainer, AOT(Sigmoid(BETA)), prob=0.8, loss_types=["aot"], label_smoothing=0.2)


def test_trl_sigmoid_ignores_label_smoothing_on_purpose_and_ours_is_conservative_dpo(trainer):
    compare(trainer, Sigmoid(BETA), loss_types=["sigmoid"], label_smoothing=0.2)
    with pytest.raises(AssertionError, match="not close"):
        compare(trainer, Sigmoid(BETA), prob=0.8, loss_types=["sigmoid"], label_smoothing=0.2)


def test_trl_ipo_divides_by_length_on_purpose_and_ours_is_the_equation(trainer):
    compare(trainer, LengthNormalised(IPO(BETA)), loss_types=["ipo"])
    with pytest.raises(AssertionError, match="not close"):
        compare(trainer, IPO(BETA), loss_types=["ipo"])


def test_trl_bco_has_no_running_mean_on_purpose_and_ours_is_centered_by_a_wrapper(trainer):
    compare(trainer, BCO(BETA), loss_types=["bco_pair"])


@pytest.mark.parametrize(
    ("kind", "coefficient", "wrap"),
    [
        ("forward_kl", None, AlphaDivergence(Sigmoid(BETA), 1.0)),
        ("alpha_divergence", 0.3, AlphaDivergence(Sigmoid(BETA), 0.7)),
        ("js_divergence", None, JensenShannon(Sigmoid(BETA))),
    ],
)
def test_divergences_agree_with_alpha_counted_from_the_other_end(trainer, kind, coefficient, wrap):
    settings = {"f_divergence_type": kind, "f_alpha_divergence_coef": coefficient}
    compare(trainer, wrap, loss_types=["sigmoid"], **settings)


def test_a_sum_of_losses_is_trl_list_of_weighted_types(trainer):
    both = Sum([Sigmoid(BETA), BCO(BETA)], [0.8, 0.2])
    compare(trainer, both, loss_types=["sigmoid", "bco_pair"], loss_weights=[0.8, 0.2])


@pytest.mark.parametrize("prob", [1.0, 0.8])
def test_cpo_and_simpo_agree_without_imitation(prob):
    pair = likely()
    settings = SimpleNamespace(
        alpha=0.0, beta=BETA, label_smoothing=1 - prob, simpo_gamma=0.5, accelerator=SimpleNamespace(device="cpu")
    )
    settings.loss_type = "sigmoid"
    ranked = cpo.CPOTrainer.cpo_loss(settings, *pair.policy)[0]
    torch.testing.assert_close(CPO(BETA, 0.0)(pair, labels(prob, 5)), ranked, **CLOSE)
    if prob == 1.0:  # under a soft label TRL keeps gamma on the chosen side, ours moves it to the side that wins
        settings.loss_type = "simpo"
        by_length = cpo.CPOTrainer.cpo_loss(settings, *(pair.policy / pair.length))[0]
        torch.testing.assert_close(SimPO(BETA, 0.5)(pair, labels(1.0, 5)), by_length, **CLOSE)


def test_the_odds_ratio_of_orpo_agrees():
    pair = replace(likely(), reference=torch.zeros(2, 5))
    settings = SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device="cpu"))
    ratio = orpo.ORPOTrainer.odds_ratio_loss(settings, *(pair.policy / pair.length))[0]
    ours = ORPO(0.2)(pair, PairLabels.hard(5)) - ChosenNLL()(pair, PairLabels.hard(5))
    torch.testing.assert_close(ours, -ratio, **CLOSE)
