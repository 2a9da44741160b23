from pathlib import Path

import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.typed import MARK
from diffpo.storage.text_files import decode_text, first_undecodable, read_text, require_utf8

TEXTS = ["a red circle", "un café «rouge»", "左の赤い円 🐱", "one\u2028line\x85of\x0call"]
READ = {"utf-8": "", "utf-8-sig": MARK, "utf-16": "", "utf-32": ""}


@pytest.mark.parametrize("encoding", READ)
@pytest.mark.parametrize("text", TEXTS)
def test_the_byte_order_mark_says_the_encoding(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt") == READ[encoding] + text
    big = {"utf-16": "\ufeff".encode("utf-16-be"), "utf-32": "\ufeff".encode("utf-32-be")}
    if encoding in big:
        assert decode_text(big[encoding] + text.encode(f"{encoding}-be"), "a") == text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp850", "shift-jis"])
def test_other_encodings_are_refused_by_the_name_of_the_file(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(("左の円" if encoding == "shift-jis" else TEXTS[1]).encode(encoding, "ignore"))
    with pytest.raises(Refusal, match=rf"^{tmp_path}/a.txt is no text in utf-8 \(.* at byte \d+\); save it as UTF-8$"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("text", TEXTS[:2])
def test_utf_16_without_its_mark_is_refused(encoding, text):
    with pytest.raises(Refusal, match=r"^a is no text in utf-8 \(.*\); save it as UTF-8$"):
        decode_text(text.encode(encoding), "a")


def test_half_a_character_is_refused():
    with pytest.raises(Refusal, match=r"a is no text in utf-16.* \(truncated data at byte \d+\); save it as UTF-8"):
        decode_text("abc".encode("utf-16")[:-1], "a")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_with_a_line_feed_and_nothing_else(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(end.join(TEXTS).encode())
    assert read_text(tmp_path / "a.txt").split("\n") == TEXTS


def test_of_several_files_the_one_is_named(tmp_path):
    files = [str(tmp_path / name) for name in ("a", "b", "c")]
    for file, data in zip(files, ("é".encode(), "é".encode("cp1252"), "é".encode("utf-16")), strict=True):
        Path(file).write_bytes(data)
    assert first_undecodable(files[:1]) is None
    assert str(first_undecodable(files)).startswith(f"{files[1]} is no text in utf-8")
    require_utf8(files[:2])
    with pytest.raises(Refusal, match="c is a text in utf-16; save it as UTF-8"):
        require_utf8(files)
