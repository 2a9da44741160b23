import json
from itertools import count

import numpy as np
import pytest
import tiny
import torch
from damage import DAMAGES
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation import drawing
from diffpo.diffusion.evaluation.drawing import Sampling, draw_or_copy, draw_pictures, picture_file
from diffpo.diffusion.model.sampling import move_pipeline

PROMPTS = ["a red circle", "a blue cross", "a green square"]
TWO = Sampling(pictures=2, steps=1, guidance=2.0, first_seed=7, batch_size=4)


@pytest.fixture(scope="module")
def pipeline():
    return tiny.pipeline()


def pixels(files) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file)) for file in files])


def refused():
    raise AssertionError("nothing is missing, so nothing has to be loaded")


def test_pictures_of_a_prompt_stand_together_and_seeds_count_up(pipeline, tmp_path, monkeypatch):
    asked = []

    def generate(_, prompts, seeds, steps, guidance, batch_size, side):
        asked.extend(zip(prompts, seeds, strict=True))
        return [Image.new("RGB", (8, 8), (seed, 0, 0)) for seed in seeds]

    monkeypatch.setattr(drawing, "generate_pictures", generate)
    files = draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {}, "x")
    assert asked == [(PROMPTS[n // 2], 7 + n) for n in range(6)]
    assert files == [tmp_path / f"{n:05d}.png" for n in range(6)]
    assert pixels(files)[:, 0, 0, 0].tolist() == [7, 8, 9, 10, 11, 12]


def test_a_stopped_run_goes_on_and_ends_with_the_same_pictures(pipeline, tmp_path, monkeypatch):
    whole = draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path / "whole", {}, "x")
    calls, generate = count(1), drawing.generate_pictures

    def killed(*given, **named):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return generate(*given, **named)

    monkeypatch.setattr(drawing, "generate_pictures", killed)
    with pytest.raises(KeyboardInterrupt):
        draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path / "stopped", {}, "x")
    kept = sorted(file.name for file in (tmp_path / "stopped").glob("*.png"))
    assert kept == [f"{n:05d}.png" for n in range(4)]
    before = (tmp_path / "stopped" / kept[0]).stat().st_mtime_ns
    resumed = draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path / "stopped", {}, "x")
    np.testing.assert_array_equal(pixels(whole), pixels(resumed))
    assert resumed[0].stat().st_mtime_ns == before


def test_finished_pictures_need_no_model(pipeline, tmp_path):
    files = draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {"model": "a"}, "x")
    assert draw_pictures(refused, PROMPTS, TWO, tmp_path, {"model": "a"}, "x") == files


def test_what_one_run_has_drawn_another_copies_if_nothing_differs(pipeline, tmp_path, monkeypatch):
    first = draw_or_copy(tmp_path / "kept", pipeline, PROMPTS, TWO, tmp_path / "a", "x")
    drawn, generate = [], drawing.generate_pictures

    def counted(_, prompts, *given, **named):
        drawn.extend(prompts)
        return generate(_, prompts, *given, **named)

    monkeypatch.setattr(drawing, "generate_pictures", counted)
    second = draw_or_copy(tmp_path / "kept", pipeline, PROMPTS, TWO, tmp_path / "b", "x")
    assert drawn == []
    np.testing.assert_array_equal(pixels(first), pixels(second))
    draw_or_copy(tmp_path / "kept", tiny.pipeline(seed=1), PROMPTS, TWO, tmp_path / "c", "x")
    draw_or_copy(tmp_path / "kept", pipeline, PROMPTS[:2], TWO, tmp_path / "d", "x")
    assert len(drawn) == 6 + 4
    assert len(list((tmp_path / "kept").iterdir())) == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"prompts": PROMPTS[:2]}, "prompts was"),
        ({"identity": {"model": "b"}}, "model was 'a' and is 'b'"),
        ({"sampling": Sampling(pictures=2, steps=2)}, "sampling was"),
    ],
)
def test_pictures_of_something_else_are_not_taken_for_these(pipeline, tmp_path, changed, named):
    asked = {"prompts": PROMPTS, "sampling": TWO, "folder": tmp_path, "identity": {"model": "a"}, "title": "x"}
    draw_pictures(lambda: pipeline, **asked)
    with pytest.raises(Refusal, match=f"{named}.*choose another output_dir"):
        draw_pictures(lambda: pipeline, **asked | changed)


def test_processes_share_whole_batches(pipeline, tmp_path, monkeypatch):
    """So a picture's last bits do not depend on their number."""
    one = Sampling(pictures=1, steps=1, batch_size=1)

    class Second:
        process_index, num_processes, is_main_process, device = 1, 2, False, torch.device("cpu")

        def wait_for_everyone(self):
            pass

    monkeypatch.setattr(drawing, "PartialState", Second)
    draw_pictures(lambda: pipeline, PROMPTS, one, tmp_path, {}, "x")
    assert [file.name for file in tmp_path.glob("*.png")] == ["00001.png"]


@pytest.mark.parametrize("number", [1, 6])
def test_a_full_disk_is_told_in_a_line_and_leaves_no_half_picture(pipeline, tmp_path, monkeypatch, number):
    """Also if it is not the last one that cannot be written."""
    calls, save = count(1), Image.Image.save

    def full(self, file, *options):
        if next(calls) != number:
            return save(self, file, *options)
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(Refusal, match="No space left.*goes on where it stopped"):
        draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {}, "x")
    assert f"{number - 1:05d}.png" not in {file.name for file in tmp_path.glob("*.png")}


def test_a_folder_says_what_its_pictures_are_of(pipeline, tmp_path):
    draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {"model": "a"}, "x")
    about = json.loads((tmp_path / "drawn.json").read_text())
    assert (about["model"], about["sampling"]["first_seed"]) == ("a", 7)
    assert picture_file(tmp_path, 5).exists()


def test_the_vae_keeps_its_type():
    """SDXL's overflows in fp16."""
    pipe = move_pipeline(tiny.pipeline(), torch.device("cpu"), "bfloat16")
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    assert move_pipeline(tiny.pipeline(), torch.device("cpu"), None).unet.dtype == torch.float32


def test_pictures_can_be_drawn_in_half_precision(tmp_path):
    half = Sampling(steps=1, dtype="bfloat16")
    files = draw_pictures(tiny.pipeline, PROMPTS, half, tmp_path, {}, "x")
    assert pixels(files).shape == (3, 32, 32, 3)


def test_nothing_to_draw_is_refused():
    with pytest.raises(Refusal, match="at least one picture, step"):
        Sampling(steps=0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_picture_that_is_not_what_was_drawn_is_drawn_again(pipeline, tmp_path, damage, caplog):
    files = draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {}, "x")
    before = [file.read_bytes() for file in files]
    DAMAGES[damage](files[4], 7)
    draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {}, "x")
    assert [file.read_bytes() for file in files] == before
    assert (
        f"1 pictures in {tmp_path} are not what was drawn, the first is 00004.png; they are drawn again" in caplog.text
    )
    draw_pictures(refused, PROMPTS, TWO, tmp_path, {}, "x")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["drawn.json", "files.json"])
def test_what_a_folder_of_pictures_says_of_itself_may_be_damaged(pipeline, tmp_path, name, damage, caplog):
    draw_pictures(lambda: pipeline, PROMPTS, TWO, tmp_path, {"model": "a"}, "x")
    DAMAGES[damage](tmp_path / name, 7)
    if (name, damage) == ("files.json", "removed"):
        draw_pictures(refused, PROMPTS, TWO, tmp_path, {"model": "a"}, "x")
        assert "are taken as they are: nothing there tells what was drawn" in caplog.text
        return
    with pytest.raises(Refusal, match=name.replace(".", r"\.") + "|holds results of something else") as said:
        draw_pictures(refused, PROMPTS, TWO, tmp_path, {"model": "a"}, "x")
    assert "\n" not in str(said.value)
