import json

import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.geneval import write_geneval


def test_the_layout_is_the_one_that_its_tools_read(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for n, file in enumerate(files):
        Image.new("RGB", (8, 8), (n, n, n)).save(file)
    records = [{"prompt": "a dog", "tag": "single_object"}, {"prompt": "two cats", "tag": "counting"}]
    write_geneval(files, records, tmp_path / "out")
    for number, record in enumerate(records):
        folder = tmp_path / "out" / f"{number:05d}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == record
        shades = [Image.open(file).getpixel((0, 0))[0] for file in sorted((folder / "samples").iterdir())]
        assert shades == [2 * number, 2 * number + 1]
        assert (folder / "samples" / "0001.png").exists()


def test_an_unreadable_picture_is_an_error(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(Refusal, match="UnidentifiedImageError"):
        write_geneval([tmp_path / "0.png"], [{"prompt": "a dog"}], tmp_path / "out")
