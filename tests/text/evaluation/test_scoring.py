"""A scorer's numbers for all answers of a source of texts."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from datasets import Dataset, load_dataset
from fake_endpoint import serving

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.mixture import Mixed
from diffpo.data.rows import DropTies
from diffpo.evaluation.scorer import TextScorer
from diffpo.text.data.completions import join_spoken
from diffpo.text.data.layouts import Lists
from diffpo.text.evaluation.scorers import EndpointRating
from diffpo.text.evaluation.scoring import score_texts


@dataclass(frozen=True)
class Length(TextScorer):
    """Characters of an answer; NaN of one that says nothing at all, infinite of one that goes on for ever."""

    calls: list[int] = field(default_factory=list)

    name = "length"  # pyright: ignore
    model_id = "none"  # pyright: ignore
    version = "1"  # pyright: ignore

    def __call__(self, prompts, candidates):
        self.calls.append(len(candidates))
        known = {"nothing": float("nan"), "for ever": float("inf")}
        return torch.tensor([known.get(said, float(len(said))) for said in map(join_spoken, candidates)])

    def count_long(self, prompts, candidates):
        return sum(len(said) > 6 for said in map(join_spoken, candidates))


PAIRS = [
    {"prompt": "a", "chosen": "yes yes", "rejected": "no", "source": "x", "label": None},
    {"prompt": "b", "chosen": "no", "rejected": "yes", "source": "y", "label": 3},
    {"prompt": "c", "chosen": "nothing", "rejected": "no", "source": "y", "label": 4},
    {"prompt": "d", "chosen": " ", "rejected": "no", "source": "y", "label": 4},
]


def saved(file, rows) -> str:
    Dataset.from_list(rows).to_parquet(str(file))
    return str(file)


def written(folder) -> list[dict]:
    return load_dataset(
        "parquet", data_files=str(folder / "train.parquet"), split="train", cache_dir=str(folder / "c")
    ).to_list()


def test_pairs_are_written_with_their_scores(tmp_path):
    source = Columns(saved(tmp_path / "pairs.parquet", PAIRS))
    about = score_texts(Length(), source, tmp_path / "out", batch_size=4)
    rows = written(tmp_path / "out")
    assert [(row["score_chosen"], row["score_rejected"]) for row in rows] == [(7, 2), (2, 3), (None, 2)]
    assert [(row["prompt"], row["source"], row["label"], row["prob"]) for row in rows] == [
        ("a", "x", None, 1),
        ("b", "y", 3, 1),
        ("c", "y", 4, 1),
    ]
    assert {key: about[key] for key in ("min", "max", "count", "unrated", "agreement", "cut")} == {
        "min": 2,
        "max": 7,
        "count": 5,
        "unrated": 1,
        "agreement": 0.5,
        "cut": 2,
    }
    assert "3 of 4 rows were kept, DropEmpty dropped 1" in about["kept"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == about
    again = Columns(str(tmp_path / "out" / "train.parquet"))
    assert score_texts(Length(), again, tmp_path / "again")["agreement"] == 0.5


def test_finished_work_is_not_done_again_and_no_other_is_mixed_in(tmp_path):
    source, scorer = Columns(saved(tmp_path / "pairs.parquet", PAIRS)), Length()
    about = score_texts(scorer, source, tmp_path / "out", batch_size=4)
    assert scorer.calls == [4, 2]
    assert score_texts(scorer, source, tmp_path / "out", batch_size=1) == about
    assert scorer.calls == [4, 2]
    with pytest.raises(Refusal, match="seed was 0 and is 1"):
        score_texts(scorer, source, tmp_path / "out", seed=1)


def test_lists_without_scores_become_lists_with_scores(tmp_path):
    lists = [{"prompt": "a", "responses": ["no", "yes", "nothing"]}, {"prompt": "b", "responses": ["nothing"]}]
    source = Lists(saved(tmp_path / "lists.parquet", lists), scores=None)
    about = score_texts(Length(), source, tmp_path / "out")
    assert written(tmp_path / "out") == [{"prompt": "a", "responses": ["no", "yes"], "scores": [2, 3]}]
    assert (about["unrated"], about["agreement"], about["lists"]) == (2, None, True)
    (row,) = (score_texts(Length(), Lists(str(tmp_path / "out" / "train.parquet"), high=3.0), tmp_path / "again"),)
    assert row["count"] == 2


def test_conversations_are_scored(tmp_path):
    said = [
        {"prompt": [{"role": "user", "content": "hi"}]}
        | {side: [{"role": "assistant", "content": x}] for side, x in (("chosen", "yes"), ("rejected", "no"))}
    ]
    score_texts(Length(), Columns(saved(tmp_path / "chats.parquet", said)), tmp_path / "out")
    (row,) = written(tmp_path / "out")
    assert (row["score_chosen"], row["score_rejected"]) == (3, 2)
    assert row["chosen"][0]["content"] == "yes"


def test_rows_are_dropped_before_they_are_scored_and_sources_may_be_mixed(tmp_path):
    tie = [{"prompt": "t", "chosen": "one", "rejected": "two", "prob": 0.5}]
    sources = [
        Columns(saved(tmp_path / f"{n}.parquet", rows), prob="prob" if n else None)
        for n, rows in enumerate((PAIRS[:2], tie))
    ]
    about = score_texts(Length(), Mixed(list(sources), [1.0, 1.0]), tmp_path / "out")
    assert (about["answers"], about["agreement"]) == (6, 0.5)
    with pytest.raises(Refusal, match="No pairs left"):
        score_texts(Length(), sources[1], tmp_path / "none", [DropTies()])


@pytest.mark.parametrize(("answer", "said"), [("for ever", "length gives inf"), ("nothing", "None of 2 answers")])
def test_scores_that_are_no_use_are_refused(tmp_path, answer, said):
    rows = [{"prompt": "a", "chosen": answer, "rejected": f"{answer}"}]
    with pytest.raises(Refusal, match=said):
        score_texts(Length(), Columns(saved(tmp_path / "pairs.parquet", rows)), tmp_path / "out")


def test_an_endpoint_that_dies_is_asked_only_for_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    source, dead = Columns(saved(tmp_path / "pairs.parquet", PAIRS[:2])), [True]

    def answer(request):
        text = request["messages"][0]["content"]
        return 500 if dead[0] and "Answer:\nyes\n" in text else "I think\n7" if "yes" in text else "0"

    with serving(answer) as server:
        scorer = EndpointRating("m", server.url, tries=1)
        with pytest.raises(Interrupted, match="stopped answering"):
            score_texts(scorer, source, tmp_path / "out")
        dead[0], asked = False, len(server.asked)
        about = score_texts(scorer, source, tmp_path / "out")
        assert len(server.asked) - asked == 2  # the check and what was missing
    assert [(row["score_chosen"], row["score_rejected"]) for row in written(tmp_path / "out")] == [
        (7, None),
        (None, 7),
    ]
    assert about["unrated"] == 2  # 0 is beyond the scale
