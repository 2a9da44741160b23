import torch
from tiny import denoiser, draws, image_batch

from diffpo.diffusion.noising import ForwardNoise


def test_forward_equation_holds():
    ours, batch = denoiser(), image_batch()
    noised = ForwardNoise()(ours, None, batch, draws())
    torch.testing.assert_close(noised.x_t, ours.noised(batch.latents, noised.eps, noised.t))


def test_sides_share_noise_and_time_and_rows_do_not():
    noised = ForwardNoise()(denoiser(), None, image_batch(), draws())
    assert torch.equal(noised.eps[0], noised.eps[1])
    assert noised.t.shape == (3,)
    assert not torch.equal(noised.eps[0, 0], noised.eps[0, 1])


def test_times_cover_the_whole_schedule():
    t = ForwardNoise()(denoiser(), None, image_batch(2000), draws(2000)).t
    assert t.min() < 10
    assert t.max() > 989
    assert abs(t.float().mean() - 499.5) < 20
