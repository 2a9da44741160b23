import pytest
import torch
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Blend, Network, shift_weights

THETA = {"a": torch.tensor([1.0, 3.0, 1e-3]), "b": torch.tensor([[0.1, 0.7]])}
POSITIVE = Network("positive", {"a": torch.tensor([1.1, 0.0, 7e4]), "b": torch.tensor([[0.3, 0.9]])})
NEGATIVE = Network("negative", {"a": torch.tensor([0.5, 1.0, 2.0]), "b": torch.tensor([[0.2, 0.0]])})


def blended(alpha: float, mix: float) -> dict[str, torch.Tensor]:
    return {**Blend(THETA, ((alpha, POSITIVE), (mix, NEGATIVE)))}


def test_no_offsets_are_the_base_and_whole_ones_are_the_networks_bit_for_bit():
    for name in THETA:
        assert torch.equal(blended(0.0, 0.0)[name].float(), THETA[name])
        assert torch.equal(blended(1.0, 0.0)[name].float(), POSITIVE.weights[name])
        assert torch.equal(blended(0.0, 1.0)[name].float(), NEGATIVE.weights[name])


def test_a_number_by_hand():
    torch.testing.assert_close(blended(0.5, 0.25)["a"][0], torch.tensor(1 + 0.05 - 0.125).double())


@pytest.mark.parametrize("name", THETA)
def test_the_mix_is_linear_in_both_scales(name):
    alone = 0.3 * (blended(1.0, 0.0)[name] - THETA[name]) + 0.8 * (blended(0.0, 1.0)[name] - THETA[name])
    torch.testing.assert_close(blended(0.3, 0.8)[name], THETA[name] + alone, rtol=1e-12, atol=1e-12)


def test_another_architecture_names_the_first_tensor_that_differs():
    assert "wide is for another architecture: its b is (2, 2), the base's (1, 2)" in refused(
        Network("wide", {"a": torch.ones(3), "b": torch.ones(2, 2)})
    )
    assert "has no a, the base has" in refused(Network("small", {"b": torch.ones(1, 2)}))
    assert "the base has no c;" in refused(Network("large", THETA | {"c": torch.ones(1)}))


def refused(part: Network) -> str:
    with pytest.raises(Refusal, match="another architecture") as error:
        Blend(THETA, ((1.0, part),))
    return str(error.value)


def test_a_network_is_shifted_in_place():
    network = nn.Linear(2, 2)
    weight = network.weight
    with torch.no_grad():
        shift_weights(network, [(1.0, Network("other", {"weight": torch.eye(2), "bias": torch.zeros(2)}))])
    assert network.weight is weight
    assert torch.equal(weight, torch.eye(2))
