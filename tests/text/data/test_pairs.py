import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from itertools import islice
from random import Random
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_templates import TEMPLATES, TOOLS, templated, turn
from tiny_text import saved_pairs, tokenizer

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.rows import PairRow, RowMap, apply_maps
from diffpo.data.sampler import ProcessShare
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.layouts import Conversations
from diffpo.text.data.pairs import TextData, TextReader
from diffpo.text.data.rows import DropEmpty, DropIdentical, ReadTexts, RequireNumbers
from diffpo.text.data.tokenizing import Tokenizing

TOKENIZING = Tokenizing(tokenizer())
ASK, YES, NO = (
    {"role": role, "content": x} for role, x in (("user", "is"), ("assistant", "yes"), ("assistant", "no"))
)


class Thirds(RowMap):
    """A third candidate, in two steps."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        steps = Completion((Segment("may", part=1), Segment("be", part=2)))
        return replace(row, prompts=row.prompts[:1] * 3, candidates=(*row.candidates, steps))


def opened(tmp_path, records, **changed):
    Dataset.from_list(records).to_parquet(str(tmp_path / "rows.parquet"))
    source = changed.pop("source", Columns)(str(tmp_path / "rows.parquet"))
    return TextData(source, workers=0, **changed).open(0, TOKENIZING)


def pair(chosen, rejected, prompt="is"):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def texts(batch, which) -> list[str]:
    return [
        "".join(TOKENIZING.tokenizer.convert_ids_to_tokens(ids[mask]))
        for ids, mask in zip(batch.ids.flatten(0, 1), which.flatten(0, 1), strict=True)
    ]


def test_a_batch_holds_prompts_and_scored_completions(tmp_path):
    batch = opened(tmp_path, [pair("yes", "no")]).first(1)
    assert texts(batch, batch.attended) == ["<s>isyes</s>", "<s>isno</s>"]
    assert texts(batch, batch.scored) == ["yes</s>", "no</s>"]
    assert texts(batch, ~batch.attended) == ["", "<pad>"]
    assert torch.equal(batch.part, batch.scored.long())


def test_messages_and_whole_conversations_give_the_same_tokens(tmp_path):
    apart = opened(tmp_path, [pair([YES], [NO], [ASK])]).first(1)
    whole = opened(tmp_path, [{"chosen": [ASK, YES], "rejected": [ASK, NO]}], source=Conversations).first(1)
    assert texts(apart, apart.attended)[0] == "<s><u>is\n<a>yes</s>"
    assert torch.equal(apart.ids, whole.ids)
    assert torch.equal(apart.scored, whole.scored)


def test_lists_of_completions_in_parts_make_a_batch_of_three(tmp_path):
    batch = opened(tmp_path, [pair("yes", "no"), pair("no", "yes")], rows=[Thirds()]).first(2)
    assert batch.ids.shape[:2] == (3, 2)
    assert batch.label.score.shape == (3, 2)
    assert texts(batch, batch.part == 2)[4:] == ["be</s>", "be</s>"]


def test_the_prompt_is_cut_alike_to_leave_room_for_the_longest_completion(tmp_path):
    batch = opened(tmp_path, [pair("yesyes", "no", "abcdefgh")], max_length=11).first(1)
    assert texts(batch, batch.attended) == ["<s>fghyesyes</s>", "<s>fghno</s>"]
    assert batch.notes == {"prompts were cut on the left": 2}


def test_a_completion_that_does_not_fit_by_itself_is_cut(tmp_path):
    batch = opened(tmp_path, [pair("yesyes", "no", "abc")], max_length=5).first(1)
    assert texts(batch, batch.scored) == ["yesy", "no</s>"]
    assert batch.notes["completions were cut on the right"] == 1


def test_prompts_have_a_limit_of_their_own(tmp_path):
    batch = opened(tmp_path, [pair("yes", "no", "abcdefgh")], max_prompt_length=3).first(1)
    assert texts(batch, batch.attended & ~batch.scored)[0] == "<s>gh"


def test_useless_rows_are_dropped_and_counted_and_cuts_are_reported(tmp_path):
    rows = [pair("yes", "no", "abcdefgh"), pair("yes", "yes"), pair("", "no"), pair(None, "no")]
    pairs = opened(tmp_path, rows, max_length=8)
    next(iter(pairs.batches(ProcessShare(2, seed=0))))
    assert pairs.report() == (
        "1 of 4 rows were kept, DropIdentical dropped 1, DropEmpty dropped 2. Of 4 texts read, 4 prompts were cut on "
        "the left."
    )


def test_candidates_that_are_cut_to_the_same_are_counted(tmp_path):
    pairs = opened(tmp_path, [pair("yesyes", "yesno", "a"), pair("yes", "no")], max_length=4)
    assert pairs.first(1).notes["are the same tokens as all others of their row, so they teach nothing"] == 2
    next(iter(pairs.batches(ProcessShare(2, seed=0))))
    assert (
        "Of 4 texts read, 2 are the same tokens as all others of their row, so they teach nothing." in pairs.report()
    )


ODD = {
    "int": [7, 8],
    "float": [0.5, 1.5],
    "bool": [True, False],
    "struct": [{"en": "a"}, {"en": "b"}],
    "texts": [["a"], ["b"]],
    "day": [date(2026, 1, 1)] * 2,
    "json": ['[{"role": "user", "content": "is"}]'] * 2,
    "numbers in messages": [[{"role": "user", "content": 7}]] * 2,
}


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_cells_of_another_type_are_refused_in_one_line_that_names_the_row(tmp_path, odd, column):
    columns = {"prompt": ["is", "it"], "chosen": ["yes", "yeses"], "rejected": ["no", "noes"]} | {column: odd}
    Dataset.from_dict(columns).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(Refusal, match="^Row 0[ :].*$"):
        TextData(Columns(str(tmp_path / "rows.parquet"))).open(0, TOKENIZING)


@pytest.mark.parametrize(
    ("column", "said"), [("prompt", "2 rows .* no prompt.*DropPromptless"), ("chosen", "^Row 0[ :].*$")]
)
def test_nan_is_no_prompt_and_no_answer(tmp_path, column, said):
    columns = {"prompt": ["is", "it"], "chosen": ["yes", "yeses"], "rejected": ["no", "noes"]}
    Dataset.from_dict(columns | {column: [math.nan] * 2}).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(Refusal, match=said):
        TextData(Columns(str(tmp_path / "rows.parquet"))).open(0, TOKENIZING)


@pytest.mark.parametrize("as_json", [True, False])
def test_tools_of_a_column_reach_the_template(tmp_path, as_json):
    tools = [{"name": "f", "parameters": {"a": {"type": "string"}}}, {"name": "g", "parameters": {"b": {"type": "x"}}}]
    rows = [pair([YES], [NO], [ASK]) | {"tools": json.dumps([tool]) if as_json else [tool]} for tool in tools]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    data, shows = TextData(Columns(str(tmp_path / "rows.parquet")), workers=0), Tokenizing(templated(TOOLS))
    batch = data.open(0, shows).first(2)
    for i, tool in enumerate(tools):
        assert shows.tokenizer.decode(batch.ids[0, i][batch.attended[0, i]]).startswith(
            f"[tools]{json.dumps([tool])}["
        )
    with pytest.raises(Refusal, match=r"^Row 0: The chat template does not show the tools.*set data\.tools to null"):
        data.open(0, TOKENIZING).first(1)
    assert texts(batch := replace(data, tools=None).open(0, TOKENIZING).first(1), batch.scored)[0] == "yes</s>"


def odd_rows(seed: int) -> Iterator[PairRow]:
    """Rows of prompts and answers of all kinds, right and wrong."""
    rng = Random(seed)

    def text() -> str:
        return rng.choice(
            ["Hi", "", " yes\n", "no</s>", "<s>Hi", "<think>a</think>b", "[{", "\n\nHuman: x", "{{ x }}"]
        )

    def part() -> Any:
        return rng.choice(
            [{"type": "text", "text": text(), "image": None}, {"type": "image"}, {"type": 3}, {}, "a", None]
        )

    def other() -> Any:
        return rng.choice([None, 7, math.nan, True, b"a", {}, [], ["a"], [None], (), [[]], str([turn("user", "a")])])

    def content() -> Any:
        return rng.choice([text, text, text, other, lambda: [part() for _ in range(rng.randrange(3))]])()

    def message() -> dict:
        extra = rng.choice([{}, {}, {"id": 3}, {"tool_calls": other()}, {"tool_calls": [{"name": "f"}]}])
        return turn(rng.choice(["user", "assistant", "assistant", "system", "tool", None]), content(), **extra)

    def side() -> Any:
        kinds = text, other, lambda: [turn("assistant", text())], lambda: [message() for _ in range(rng.randrange(4))]
        return rng.choices(kinds, [4, 1, 4, 4])[0]()

    while True:
        prompt, candidates = rng.choice([text(), [turn("user", text())], side()]), (side(), side())
        tools = rng.choice([None, None, None, other()])
        yield PairRow(5, (prompt, prompt), candidates, extra={"tools": tools})


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_whatever_a_row_holds_it_is_read_dropped_or_refused_in_one_line(template):
    reader = TextReader(Tokenizing(templated(template)), 40, tools="tools")
    maps, became = [ReadTexts(), DropEmpty(), DropIdentical(), RequireNumbers()], Counter[str]()
    for row in islice(odd_rows(seed=len(template)), 300):
        try:
            found = apply_maps(row, maps, Draws(0, (0,), (5,)))
            if isinstance(found, PairRow) and None not in found.prompts:
                assert all(len(tokens.completion) for tokens in reader(found))
            became[type(found).__name__] += 1
        except Refusal as error:
            became[re.sub("^Row 5.*$", "refused", str(error))] += 1
    assert {*became} <= {"PairRow", "DropEmpty", "DropIdentical", "refused"}
    assert min(became["PairRow"], became["DropEmpty"], became["refused"]) > 3


def test_batches_are_a_function_of_seed_and_position(tmp_path):
    pairs = TextData(Columns(saved_pairs(tmp_path / "x.parquet")), together=2, workers=0).open(0, TOKENIZING)
    stream = pairs.batches(ProcessShare(2, seed=0))
    rows = [next(stream).row for _ in range(9)]
    assert next(iter(pairs.batches(ProcessShare(2, seed=0, first=7)))).row == rows[7]
    assert sorted(sum(rows[:6], ())) == list(range(12))


def test_rows_of_similar_length_stand_together(tmp_path):
    pairs = opened(tmp_path, [pair("yes" * (1 + i % 2 * 9), "no") for i in range(16)], together=4)
    stream = pairs.batches(ProcessShare(4, seed=0))
    assert {len({row % 2 for row in next(stream).row}) for _ in range(4)} == {1}


IMAGE = {"role": "user", "content": [{"type": "image"}]}


def test_an_error_in_a_text_names_the_row(tmp_path):
    pairs = opened(tmp_path, [pair([YES], [NO], [IMAGE])])
    with pytest.raises(Refusal, match="Row 0: A message of user has a part of type 'image'"):
        pairs.first(1)


def test_an_error_in_a_worker_is_one_line(tmp_path):
    opened(tmp_path, [pair([YES], [NO], [IMAGE])])
    pairs = TextData(Columns(str(tmp_path / "rows.parquet")), workers=1).open(0, TOKENIZING)
    with pytest.raises(Refusal, match="^Row 0: A message of user has a part of type 'image'"):
        next(iter(pairs.batches(ProcessShare(1, seed=0))))


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(Refusal, match="Columns needs columns 'rejected', the table has 'prompt', 'chosen'"):
        opened(tmp_path, [{"prompt": "is", "chosen": "yes"}])


@pytest.mark.parametrize("wrong", [{"max_length": 1}, {"max_prompt_length": 2000}, {"together": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(Refusal, match=f"data.{next(iter(wrong))}"):
        TextData(Columns("x"), **wrong)
