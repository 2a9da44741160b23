import json

import pytest
from datasets import Dataset

from diffpo.core.refusal import Refusal
from diffpo.evaluation.prompts import Prompts

WANTED = ["a red circle", "a «blue» square, 左"]


@pytest.fixture(params=["txt", "json", "json of objects", "jsonl", "parquet", "csv"])
def file(request, tmp_path):
    kind = request.param
    path = tmp_path / f"prompts.{kind.split()[0]}"
    if kind == "txt":
        path.write_text(f"{WANTED[0]}\n\n  \n{WANTED[1]}\n", encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(WANTED))
    elif kind == "json of objects":
        path.write_text(json.dumps([{"prompt": prompt} for prompt in WANTED]))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in WANTED))
    else:
        getattr(Dataset.from_dict({"prompt": WANTED}), f"to_{kind}")(path)
    return str(path)


def test_prompts_are_read_from_whatever_holds_them(file):
    assert [record["prompt"] for record in Prompts(file).read()] == WANTED


def test_the_first_few_can_be_asked_for(file):
    assert [record["prompt"] for record in Prompts(file, count=1).read()] == WANTED[:1]


def test_a_record_keeps_what_else_is_said_of_its_prompt(tmp_path):
    geneval = {"tag": "colors", "include": [{"class": "dog", "count": 1}], "caption": "a dog"}
    (tmp_path / "a.jsonl").write_text(json.dumps(geneval) + "\n")
    [record] = Prompts(str(tmp_path / "a.jsonl"), column="caption").read()
    assert record == geneval | {"prompt": "a dog"}


def test_pictures_of_a_set_are_not_read(tmp_path):
    table = Dataset.from_dict({"prompt": ["a"], "image": [b"123"]})
    table.to_parquet(tmp_path / "a.parquet")
    assert Prompts(str(tmp_path / "a.parquet")).read() == [{"prompt": "a"}]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "\n\n", "holds no prompts"),
        ("a.json", "[]", "holds no prompts"),
        ("a.json", '{"prompt": "a"}', "it is a dict, not a list"),
        ("a.json", "[1]", "Prompt 0 of .* is 1; each needs to be a text"),
        ("a.json", '["a", ""]', "Prompt 1 of .* is ''"),
        ("a.json", '[{"text": "a"}]', "Prompts needs columns 'prompt', the table has 'text'"),
        ("a.json", "[", "does not hold prompts that can be read"),
        ("a.jsonl", '{"text": "a"}', "Prompts needs columns 'prompt', the table has 'text'"),
        ("a.jsonl", '{"prompt": null}', "Prompt 0 of .* is None"),
        ("a.txt", None, "Cannot load prompts from .*there is no such local path"),
        ("a.jsonl", None, "Cannot load prompts from .*there is no such local path"),
    ],
)
def test_what_holds_no_prompts_is_refused(tmp_path, name, text, reason):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(Refusal, match=reason):
        Prompts(str(tmp_path / name)).read()


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_prompt_cannot_be_asked_for(file, count):
    with pytest.raises(Refusal, match=f"prompts.count must be at least 1, got {count}"):
        Prompts(file, count=count)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["txt", "json"])
def test_the_encoding_is_told_by_a_byte_order_mark(tmp_path, kind, encoding):
    text = "\n".join(WANTED) if kind == "txt" else json.dumps(WANTED, ensure_ascii=False)
    (tmp_path / f"a.{kind}").write_bytes(text.encode(encoding))
    assert [record["prompt"] for record in Prompts(str(tmp_path / f"a.{kind}")).read()] == WANTED


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_mark_before_a_table_is_no_part_of_it(tmp_path, kind):
    text = "prompt\ncafé\n" if kind == "csv" else json.dumps({"prompt": "café"}, ensure_ascii=False)
    (tmp_path / f"a.{kind}").write_bytes(text.encode("utf-8-sig"))
    assert [record["prompt"] for record in Prompts(str(tmp_path / f"a.{kind}")).read()] == ["café"]


@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_other_encodings_are_one_line_with_file_and_remedy(tmp_path, kind, encoding):
    if encoding == "utf-16" and kind in ("txt", "json"):
        pytest.skip("these are read")
    texts = {"txt": "café", "json": '["café"]', "jsonl": '{"prompt": "café"}', "csv": "prompt\ncafé"}
    (tmp_path / f"a.{kind}").write_bytes(texts[kind].encode(encoding))
    with pytest.raises(Refusal) as caught:
        Prompts(str(tmp_path / f"a.{kind}")).read()
    assert "\n" not in str(caught.value)
    if (kind, encoding) == ("jsonl", "utf-16-le"):
        assert "JSON parse error" in str(caught.value)
    else:
        assert "UTF-8" in str(caught.value)


def test_a_line_ends_where_text_files_end_lines(tmp_path):
    odd = ["one\u2028line", "one\x85line", "one\x0cline", "one\x1cline", "one\u2029line"]
    for number, end in enumerate(("\n", "\r\n", "\r")):
        (tmp_path / f"{number}.txt").write_bytes(end.join([*odd, ""]).encode())
        assert [record["prompt"] for record in Prompts(str(tmp_path / f"{number}.txt")).read()] == odd


def test_of_several_captions_the_first_is_asked_for(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([["a", "b"], "\ufeffc", {"prompt": ["\ufeffd"]}]))
    assert [record["prompt"] for record in Prompts(str(tmp_path / "a.json")).read()] == ["a", "c", "d"]


@pytest.mark.parametrize("value", [1, 1.5, True, {"en": "a"}, [1], ["a", None], [], [""], ["x" * 10**6, 1]])
def test_what_is_no_prompt_is_told_in_a_short_line(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": value}]))
    with pytest.raises(Refusal, match=r"^Prompt 1 of .*a.json is .*; each needs to be a text\.$") as caught:
        Prompts(str(tmp_path / "a.json")).read()
    assert len(str(caught.value)) < 300
    Dataset.from_dict({"prompt": [b"a", b"b"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(Refusal, match=r"^Prompt 0 of .*b.parquet is 1 bytes; each needs to be a text\.$"):
        Prompts(str(tmp_path / "b.parquet")).read()
