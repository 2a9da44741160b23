from dataclasses import replace

import torch
from tiny_text import language_model, token_batch

from diffpo.core.references import FrozenCopy
from diffpo.text.objective.steps import EqualSteps, SimilarSteps, Steps


def two_steps():
    """Three answers of two steps, the second of which begins with the third token."""
    batch = token_batch(k=3, b=2)
    return replace(batch, part=torch.where(batch.scored.cumsum(-1) < 3, 1, 2) * batch.scored)


def test_steps_are_compared_by_their_number_and_the_longer_answer_keeps_the_rest_in_the_last():
    batch = token_batch(k=2, b=1, s=6, prompt=2)
    part = torch.tensor([[[0, 0, 1, 1, 2, 3]], [[0, 0, 1, 2, 2, 2]]])
    steps = Steps.of(replace(batch, part=part, scored=part > 0))
    assert torch.equal(steps.tokens.sum(2).long(), torch.tensor([[[2, 1, 1]], [[1, 3, 0]]]))
    assert torch.equal(steps.merged[0, 1, 0], torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]]))
    assert torch.equal(steps.merged[0, 0, 0], torch.eye(3))


def test_similarity_is_of_the_mean_states_of_steps():
    model, batch = language_model(), two_steps()
    with torch.no_grad():
        states = model.model(batch.ids.flatten(0, 1), batch.attended.flatten(0, 1).long()).last_hidden_state
    states = states.unflatten(0, (3, 2))
    first = [states[k, 1, batch.part[k, 1] == 1].mean(0) for k in range(3)]
    weight = SimilarSteps()(FrozenCopy(model), batch, Steps.of(batch))
    torch.testing.assert_close(weight[0, 2, 1, 0], 1 + torch.cosine_similarity(first[0], first[2], dim=0))


def test_equal_steps_all_count_one():
    batch = two_steps()
    steps = Steps.of(batch)
    assert torch.equal(EqualSteps()(FrozenCopy(language_model()), batch, steps), torch.ones(3, 3, 2, 2))
