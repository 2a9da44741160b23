import torch

from diffpo.diffusion.data.batches import count_enlarged


def test_a_picture_is_enlarged_if_its_bucket_is_higher_or_wider():
    time_ids = torch.tensor([[[30.0, 60, 0, 0, 24, 40]], [[23, 60, 0, 0, 24, 40]], [[30, 39, 0, 0, 24, 40]]])
    assert count_enlarged(time_ids) == 2
