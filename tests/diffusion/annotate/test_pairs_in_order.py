import datasets
import pytest
from shards import png
from tiny import pair_folder

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PairFolder, PickAPic, Unpaired
from diffpo.data.mixture import Mixed
from diffpo.data.rows import DropTies, Reverse
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder, survey_rows


def labeled(file, labels=(1.0, 0.5, 0.0), prompt="p"):
    n = len(labels)
    data = {"jpg_0": [png("red")] * n, "jpg_1": [png("blue")] * n, "label_0": list(labels), "caption": [prompt] * n}
    datasets.Dataset.from_dict(data).to_parquet(file)
    return PickAPic(str(file))


def test_every_pair_of_mixed_sources_comes_once_whatever_their_weights(tmp_path):
    two = [labeled(tmp_path / "a.parquet"), PairFolder(str(pair_folder(tmp_path / "f", n=2)))]
    pairs = PairsInOrder(Mixed(two, weights=[9.0, 1.0]))
    assert len(pairs) == 5
    assert [row.id for row in pairs] == [0, 1, 2, 3, 4]
    assert [row.prompts[0] for row in pairs][2:] == ["p", "a red circle on the left 0", "a red circle on the left 1"]
    assert [sorted(columns) for columns in pairs.columns] == [["caption", "label_0"], ["prompt"]]


def test_row_maps_drop_and_turn(tmp_path):
    pairs = PairsInOrder(labeled(tmp_path / "a.parquet"), [DropTies(), Reverse()])
    assert [row.id for row in pairs] == [0, 2]
    assert pairs[0].candidates[0].read() == png("blue")


def test_single_pictures_are_refused(tmp_path):
    datasets.Dataset.from_dict({"image": [png()], "label": [1], "prompt": ["p"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(Refusal, match=r"Unpaired\(.* has rows of k = 1, a pair has k = 2 candidates; name a source"):
        PairsInOrder(Unpaired(str(tmp_path / "a.parquet")))


def test_the_survey_says_who_has_a_winner_and_each_prompt_once(tmp_path):
    survey = survey_rows(PairsInOrder(labeled(tmp_path / "a.parquet")))
    assert survey.decided.tolist() == [True, False, True]
    assert survey.prompts == ["p"]
    assert not survey.per_side


def test_the_digest_tells_other_labels_and_other_prompts_apart(tmp_path):
    first, same, labels, prompt = (
        survey_rows(PairsInOrder(labeled(tmp_path / f"{i}.parquet", **changed))).digest
        for i, changed in enumerate([{}, {}, {"labels": (1.0, 0.5, 0.5)}, {"prompt": "q"}])
    )
    assert first == same
    assert len({first, labels, prompt}) == 3


def test_captions_per_side_are_noticed(tmp_path):
    data = {"a": ["same", "w"], "b": ["same", "l"], "chosen": [png()] * 2, "rejected": [png()] * 2}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "a.parquet")
    source = Columns(str(tmp_path / "a.parquet"), prompt_chosen="a", prompt_rejected="b")
    survey = survey_rows(PairsInOrder(source))
    assert survey.per_side
    assert survey.prompts == ["same", "w", "l"]
