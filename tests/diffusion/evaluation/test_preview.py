from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from shards import png
from tiny import moved, pipeline

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.preview import PictureGrid, PreviewConfig, on_device

CONFIG = PreviewConfig(["a red circle", "a blue cross"], every=5, steps=1, guidance=2.0)


class FakeTracker:
    def __init__(self, name: str):
        self.name, self.shown = name, []

    def log_images(self, values, step, **kwargs):
        self.shown.append((values["preview"], step, kwargs))


class FakeAccelerator(Accelerator):
    main = True

    def __init__(self, *trackers: FakeTracker):
        self.trackers = list(trackers)

    @property
    def is_main_process(self) -> bool:
        return self.main

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def test_the_first_preview_is_one_row(tmp_path):
    PictureGrid(CONFIG, pipeline(), tmp_path)(0, FakeAccelerator())
    assert Image.open(tmp_path / "previews" / "step-000000.png").size == (64, 32)


def test_later_previews_stand_below_the_first(tmp_path):
    pipe = pipeline()
    grid = PictureGrid(CONFIG, pipe, tmp_path)
    grid(0, FakeAccelerator())
    moved(pipe.unet)
    grid(5, FakeAccelerator())
    first = np.asarray(Image.open(tmp_path / "previews" / "step-000000.png"))
    later = np.asarray(Image.open(tmp_path / "previews" / "step-000005.png"))
    assert later.shape == (64, 64, 3)
    assert np.array_equal(later[:32], first)
    assert not np.array_equal(later[32:], first)


def test_the_same_weights_draw_the_same_previews(tmp_path):
    grid = PictureGrid(CONFIG, pipeline(), tmp_path)
    grid(0, FakeAccelerator())
    grid(5, FakeAccelerator())
    later = np.asarray(Image.open(tmp_path / "previews" / "step-000005.png"))
    assert np.array_equal(later[:32], later[32:])


def test_a_lost_first_preview_is_not_missed(tmp_path):
    PictureGrid(CONFIG, pipeline(), tmp_path)(5, FakeAccelerator())
    assert Image.open(tmp_path / "previews" / "step-000005.png").size == (64, 32)


def test_a_preview_for_which_there_is_no_room_is_told_and_costs_no_run(tmp_path, caplog):
    (tmp_path / "previews").write_text("in the way")
    PictureGrid(CONFIG, pipeline(), tmp_path)(0, FakeAccelerator())
    assert "The preview of step 0 could not be written ([Errno 17] File exists" in caplog.text


@pytest.mark.parametrize("content", [b"", b"text", png(size=(64, 32), seed=0)[:200]])
def test_a_damaged_first_preview_is_told_and_costs_its_row_alone(tmp_path, content, caplog):
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "step-000000.png").write_bytes(content)
    PictureGrid(CONFIG, pipeline(), tmp_path)(5, FakeAccelerator())
    assert Image.open(tmp_path / "previews" / "step-000005.png").size == (64, 32)
    [told] = [record.getMessage() for record in caplog.records]
    assert "step-000000.png is damaged" in told
    assert "shows the tuned model alone. Remove that file." in told


def test_trackers_that_take_pictures_get_them(tmp_path):
    tensorboard, wandb, other = FakeTracker("tensorboard"), FakeTracker("wandb"), FakeTracker("mlflow")
    PictureGrid(CONFIG, pipeline(), tmp_path)(0, FakeAccelerator(tensorboard, wandb, other))
    [(pixels, step, kwargs)] = tensorboard.shown
    assert (pixels.shape, pixels.dtype, step, kwargs) == ((1, 32, 64, 3), np.uint8, 0, {"dataformats": "NHWC"})
    [([picture], step, _)] = wandb.shown
    assert (picture.size, step) == ((64, 32), 0)
    assert other.shown == []


@pytest.mark.parametrize("wrong", [{"prompts": []}, {"every": 0}])
def test_a_preview_of_nothing_is_refused(wrong):
    with pytest.raises(Refusal, match="preview needs prompts and a positive `every`.*set preview to null"):
        PreviewConfig(**{"prompts": ["a red circle"]} | wrong)


def test_it_is_drawn_as_often_as_told(tmp_path):
    assert PictureGrid(CONFIG, pipeline(), tmp_path).every == 5


def test_half_precision_text_states_draw_too_and_the_vae_stays_in_fp32(tmp_path):
    pipe = pipeline()
    pipe.text_encoder.to(torch.bfloat16)
    seen = []
    pipe.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    pipe.vae.decoder.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    PictureGrid(CONFIG, pipe, tmp_path)(0, FakeAccelerator())
    assert seen == [torch.float32, torch.float32]


def test_other_processes_help_to_draw_and_write_nothing(tmp_path):
    other, drawn = FakeAccelerator(), []
    other.main = False
    pipe = pipeline()
    pipe.unet.register_forward_hook(lambda *_: drawn.append(1))
    PictureGrid(CONFIG, pipe, tmp_path)(0, other)
    assert drawn
    assert not (tmp_path / "previews").exists()


class Elsewhere(torch.nn.Module):
    """Remembers where it was sent."""

    def __init__(self):
        super().__init__()
        self.device, self.sent = torch.device("meta"), []

    def to(self, device):
        self.sent.append(torch.device(device).type)


def test_parts_that_live_elsewhere_are_fetched_and_sent_home():
    pipe, part = pipeline(), Elsewhere()
    shown = SimpleNamespace(components={"unet": pipe.unet, "vae": part, "tokenizer": pipe.tokenizer})
    with on_device(shown, pipe.unet, torch.device("cpu")):
        assert part.sent == ["cpu"]
    assert part.sent == ["cpu", "meta"]
