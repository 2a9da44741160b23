import json

import pytest

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.listing import read_listing


def listing(tmp_path, *lines):
    file = tmp_path / "pictures" / "prompts.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return file


def test_files_have_their_numbers_or_their_names(tmp_path):
    found = read_listing(listing(tmp_path, {"prompt": "a"}, {"prompt": "b", "file": "deep/b.jpg"}, {"prompt": "c"}))
    names = ["00000.png", "deep/b.jpg", "00002.png"]
    assert found == [(prompt, tmp_path / "pictures" / name) for prompt, name in zip("abc", names, strict=True)]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_files_elsewhere_are_refused_unless_they_are_allowed(tmp_path, name):
    file = listing(tmp_path, {"prompt": "a"}, {"prompt": "b", "file": name})
    (tmp_path / "secret.png").touch()
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Refusal, match=f"Line 2 of {file} names {name}, which lies elsewhere; draw .* set `outside`"):
        read_listing(file)
    assert read_listing(file, outside=True)[1] == ("b", file.parent / name)


@pytest.mark.parametrize("line", ["", "{", "[1]", "1", "null", '"a"', '{"file": "a.png"}'])
def test_a_line_that_names_no_picture_is_told_by_its_number(tmp_path, line):
    file = listing(tmp_path, {"prompt": "a"}, line)
    if not line:
        file.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    with pytest.raises(Refusal, match=f"Line 2 of {file} does not name a picture; draw them anew"):
        read_listing(file)
