import torch
from PIL import Image
from tiny import picture

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.diffusion.data.batches import PixelBatch, PosteriorBatch, PromptBatch
from diffpo.diffusion.data.contact_sheet import (
    SIDE,
    draw_sheet,
    find_mirrored,
    prompt_of,
    read_pictures,
    tell_pairs,
)
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.readers import PixelReader

LABEL = PairLabels(torch.tensor([0.9, 1.0]), torch.tensor([[2.5, 0.0], [1.5, 0.0]]), torch.tensor([1.0, 0.5]))


def pixel_batch() -> PixelBatch:
    framing = Framing(16, random_crop=True)
    views = [framing([picture(0, (40, 20)), picture(1, (20, 20))], Draws(0, (0,), (row,))) for row in (3, 5)]
    return PixelBatch(
        torch.stack([view.pixels for view in views], dim=1),
        torch.stack([view.time_ids for view in views], dim=1),
        (["a cross", "long words " * 30], ["a cross", ""]),
        LABEL,
        (0, 0),
        (3, 5),
    )


def test_pictures_are_the_pixels_that_the_network_gets():
    batch = pixel_batch()
    shown = read_pictures(batch, None)
    assert [len(side) for side in shown] == [2, 2]
    assert torch.equal(torch.tensor(list(shown[1][0].tobytes())).view(16, 16, 3), batch.pixels[1, 0].permute(1, 2, 0))


def test_a_sheet_shows_all_pairs_at_one_size():
    batch = pixel_batch()
    shown = read_pictures(batch, None)
    sheet = draw_sheet(batch, shown, ["one", "two"])
    corner = (12, 12 + 16 + 4)
    large = sheet.crop((*corner, corner[0] + SIDE, corner[1] + SIDE))
    assert list(large.resize((16, 16), Image.Resampling.NEAREST).get_flattened_data()) == list(
        shown[0][0].get_flattened_data()
    )
    assert draw_sheet(batch, shown, ["one"]).height == sheet.height


def test_a_pair_is_told_by_row_label_crop_and_flip():
    first, second = tell_pairs(pixel_batch(), [False, True])
    assert first.startswith("row 3, P 0.9, weight 1, scores 2.5, 1.5, of 40 x 20 from (")
    assert " and of 20 x 20 from (0, 0)" in first
    assert not first.endswith("mirrored")
    assert second.startswith("row 5, P 1, weight 0.5, of 40 x 20 from (")
    assert second.endswith("mirrored")


def test_a_flip_is_the_one_of_the_visit():
    reader, batch = PixelReader(Framing(16), 0.0, 0), pixel_batch()
    flips = [reader.framing.mirrors(Draws(0, (0,), (row,))) for row in batch.row]
    assert find_mirrored(batch, reader) == flips
    assert find_mirrored(batch, PixelReader(Framing(16, flip=False), 0.0, 0)) == [False, False]


def test_prompts_alone_get_blanks():
    label = PairLabels(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    batch = PromptBatch(16, torch.zeros(1, 1, 6), (["a cross"],), label, (0,), (0,))
    [[blank]] = read_pictures(batch, None)
    assert blank.size == (16, 16)
    assert find_mirrored(batch, None) == [False]
    assert list(tell_pairs(batch, [False])) == ["row 0, P 1, weight 1"]


def test_encoded_pictures_are_decoded_as_the_network_sees_them_and_prompts_are_told():
    label, mean = PairLabels(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), torch.full((1, 1, 3, 4, 4), 0.25)
    batch = PosteriorBatch(mean, mean, 2.0, torch.zeros(1, 1, 6), (["a cross"],), label, (0,), (0,))
    [[shown]] = read_pictures(batch, lambda latents: latents)
    assert shown.getpixel((0, 0)) == (191, 191, 191)  # (0.5 + 1) x 127.5
    assert prompt_of(batch, 0, 0) == "a cross"
