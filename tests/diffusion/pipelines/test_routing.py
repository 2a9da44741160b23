from contextlib import contextmanager

import pytest
import torch
from tiny import WIDTH, unet
from torch import Tensor, nn

from diffpo.diffusion.pipelines.routing import UNBATCHED, join_answers, route_calls, take_half

LATENTS = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(1))


class Plus(nn.Module):
    """Adds a number, and remembers what it was added to."""

    def __init__(self, number: float):
        super().__init__()
        self.number, self.seen = number, []

    def forward(self, x: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        self.seen.append(x.flatten().tolist())
        return (x + self.number,)


def batch(*numbers: float) -> Tensor:
    return torch.tensor(numbers)[:, None]


def halves(negative: nn.Module, positive: nn.Module) -> Tensor:
    """What two networks say, called by hand."""
    with torch.no_grad():
        answers = [
            network(LATENTS[half], 5, encoder_hidden_states=STATES[half]).sample
            for network, half in ((negative, slice(2)), (positive, slice(2, None)))
        ]
    return torch.cat(answers)


def test_halves_are_taken_of_batched_tensors_however_deep():
    rotary, pooled, time = torch.zeros(4, 3), torch.arange(4.0), torch.tensor(7)
    tree = {"added": [pooled, (pooled[:, None], "a")], "image_rotary_emb": rotary, "t": time, "one": pooled[:1]}
    half = take_half(tree, 4, slice(2, None))
    assert half["added"][0].tolist() == [2, 3]
    assert half["added"][1][0].tolist() == [[2], [3]]
    assert half["added"][1][1] == "a"
    assert half["t"] is time
    assert len(half["one"]) == 1
    assert half["image_rotary_emb"] is rotary
    assert "image_rotary_emb" in UNBATCHED


def test_each_network_sees_its_half_alone():
    positive, negative = Plus(1.0), Plus(10.0)
    with route_calls(positive, negative, guided=True):
        assert positive(batch(0, 1, 2, 3))[0].flatten().tolist() == [10, 11, 3, 4]
    assert (positive.seen, negative.seen) == ([[2, 3]], [[0, 1]])


def test_calls_of_other_rows_than_the_first_have_no_halves():
    positive, negative = Plus(1.0), Plus(10.0)
    with route_calls(positive, negative, guided=True):
        positive(batch(0, 1))
        assert positive(batch(5.0))[0].tolist() == [[6]]
    assert negative.seen == [[0]]


def test_without_guidance_the_negative_is_not_called():
    positive, negative = Plus(1.0), Plus(10.0)
    with route_calls(positive, negative, guided=False):
        assert positive(batch(0, 1))[0].flatten().tolist() == [1, 2]
    assert negative.seen == []


def test_a_network_can_be_its_own_negative_in_another_state():
    network = Plus(1.0)

    @contextmanager
    def raised():
        network.number = 10.0
        yield
        network.number = 1.0

    with route_calls(network, network, guided=True, around=raised):
        assert network(batch(0, 1))[0].flatten().tolist() == [10, 2]


def test_afterwards_the_network_is_as_it_was_whatever_happened():
    positive = Plus(1.0)
    before = dict(vars(positive))
    with pytest.raises(KeyboardInterrupt), route_calls(positive, Plus(2.0), guided=True):
        raise KeyboardInterrupt
    assert vars(positive) == before


def test_output_objects_and_tuples_keep_their_form():
    positive, negative = unet(0), unet(1)
    with torch.no_grad(), route_calls(positive, negative, guided=True):
        named = positive(LATENTS, 5, encoder_hidden_states=STATES)
        plain = positive(LATENTS, 5, encoder_hidden_states=STATES, return_dict=False)
    assert type(named).__name__ == "UNet2DConditionOutput"
    assert type(plain) is tuple
    assert torch.equal(named.sample, plain[0])
    assert torch.equal(named.sample, halves(negative, positive))


def test_answers_of_several_tensors_are_joined_one_by_one():
    assert [x.tolist() for x in join_answers((batch(1), [batch(2)][0]), (batch(3), batch(4)))] == [
        [[1], [3]],
        [[2], [4]],
    ]


class Times(nn.Module):
    """Small, so that it compiles in no time."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.factor * x,)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_graph_compiled_before_there_was_a_negative_does_not_hide_it(in_place):
    positive: nn.Module = Times(2.0)
    if in_place:
        positive.compile(backend="eager")
    else:
        positive = torch.compile(positive, backend="eager")
    for factor in (3.0, 5.0):
        assert positive(batch(1, 2))[0].flatten().tolist() == [2, 4]
        with route_calls(positive, Times(factor), guided=True):
            assert positive(batch(1, 2))[0].flatten().tolist() == [factor, 4]


def test_hooks_of_the_user_stay_and_see_the_positive_half():
    positive, seen = Plus(1.0), []
    positive.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    with route_calls(positive, Plus(10.0), guided=True):
        positive(batch(0, 1, 2, 3))
    positive(batch(0))
    assert seen == [2, 1]
