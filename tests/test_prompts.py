import json

import pytest
from datasets import Dataset

from diffpo.prompts import Prompts
from diffpo.refusal import Refusal

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
