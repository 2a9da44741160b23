import pytest
import torch
from tiny_text import language_model, token_batch
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.states import (
    attach_part,
    before_completion,
    find_last,
    own_rate,
    part_of,
    read_states,
    take_at,
    watch_states,
)

BATCH = token_batch()


def hidden(model) -> torch.Tensor:
    """As transformers gives them."""
    ids, attended = BATCH.ids.flatten(0, 1), BATCH.attended.flatten(0, 1).long()
    return model(ids, attention_mask=attended, output_hidden_states=True).hidden_states[-1]


def test_states_are_those_that_enter_the_output_layer():
    model = language_model()
    plain = token_logps(model, BATCH)
    with watch_states(model, lambda states: states.clone()) as found:
        looked = token_logps(model, BATCH)
    assert torch.equal(looked, plain)
    torch.testing.assert_close(found[0], hidden(model))
    torch.testing.assert_close(
        read_states(model, BATCH, lambda states: take_at(states, find_last(BATCH)).flatten(0, 1)),
        take_at(hidden(model), find_last(BATCH)).flatten(0, 1),
    )
    token_logps(model, BATCH)
    assert len(found) == 1


def test_gradients_flow_back_from_what_is_seen():
    model = language_model()
    read_states(model, BATCH, lambda states: states[:, 0]).sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0
    assert model.lm_head.weight.grad is None


def test_positions_are_those_of_the_last_token_and_of_the_last_of_the_prompt():
    assert torch.equal(find_last(BATCH), BATCH.attended.sum(-1) - 1)
    assert torch.equal(before_completion(BATCH), torch.full((2, 3), 2))
    states = torch.arange(6 * 9.0).reshape(6, 9, 1)
    assert torch.equal(
        take_at(states, find_last(BATCH)).squeeze(-1), torch.arange(6).reshape(2, 3) * 9 + find_last(BATCH)
    )


class Wrapped(nn.parallel.DistributedDataParallel):
    """What training makes of a network, without other processes."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


def test_a_part_is_found_in_a_wrapped_network_and_has_a_rate_of_its_own():
    model, part = language_model().half(), nn.Linear(2, 1)
    attach_part(model, "part", part)
    assert part_of(Wrapped(model), "part") is part
    assert part.weight.dtype == torch.float32
    model.lm_head.requires_grad_(False)
    others, own = own_rate(model, "part", 0.5)
    assert own == {"params": [part.weight, part.bias], "lr": 0.5}
    assert {id(p) for p in others["params"]} == {id(p) for p in model.model.parameters()}
    torch.optim.AdamW([others, own], lr=1e-6)


def test_a_part_that_is_missing_or_there_already_is_told():
    model = language_model()
    with pytest.raises(Refusal, match="has no part 'part'; call objective.attach"):
        part_of(model, "part")
    attach_part(model, "part", nn.Linear(1, 1))
    with pytest.raises(Refusal, match="has a part 'part' already"):
        attach_part(model, "part", nn.Linear(1, 1))
