import torch

from diffpo.core.draws import Draws


def test_a_row_draws_the_same_in_any_batch():
    alone, together = Draws(0, (2,), (7,)), Draws(0, (1, 2, 2), (7, 7, 8))
    assert torch.equal(alone.normal("noise", 4, 3)[0], together.normal("noise", 4, 3)[1])
    assert alone.integers("timestep", 1000)[0] == together.integers("timestep", 1000)[1]


def test_seed_epoch_row_and_name_all_matter():
    noise = Draws(0, (0,), (0,)).normal("noise", 8)
    others = [
        Draws(1, (0,), (0,)).normal("noise", 8),
        Draws(0, (1,), (0,)).normal("noise", 8),
        Draws(0, (0,), (1,)).normal("noise", 8),
        Draws(0, (0,), (0,)).normal("vae", 8),
    ]
    assert not any(torch.equal(noise, other) for other in others)


def test_order_of_draws_does_not_matter():
    first, second = Draws(0, (0,), (5,)), Draws(0, (0,), (5,))
    a, b = first.normal("a", 3), first.uniform("b")
    assert torch.equal(b, second.uniform("b"))
    assert torch.equal(a, second.normal("a", 3))


def test_a_hundred_thousand_rows_share_no_first_number():
    """A 32-bit seed would collide about once here, and often in a real data set."""
    draws = Draws(0, (0,) * 100_000, tuple(range(100_000)))
    keys = {draws._generator("noise", 0, row).bit_generator.state["state"]["key"].tobytes() for row in draws.row}
    assert len(keys) == 100_000


def test_distributions():
    draws = Draws(0, (0,) * 4000, tuple(range(4000)))
    normal, uniform, times = draws.normal("n", 4), draws.uniform("u"), draws.integers("t", 10)
    assert normal.dtype == torch.float32
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
    assert abs(uniform.mean() - 0.5) < 0.02
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert times.unique().tolist() == list(range(10))
