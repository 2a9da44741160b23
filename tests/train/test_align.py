"""The recipe, on points: what both tracks do before, around and after the loop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SHORT, PointPreference, Points, adamw, scorer, weights

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.pairs import RowPairs
from diffpo.data.rows import PairRow, RowMap
from diffpo.diffusion.model.loading import LoadedStableDiffusion
from diffpo.evaluation.win_rates import Evaluation
from diffpo.text.model.loading import LoadedCausalLM
from diffpo.train.align import LoadedBase, align, finish, open_pairs
from diffpo.train.publish import Publish
from diffpo.train.run import FitConfig, open_run
from diffpo.train.validation import ValidationSplit


class RowPoints(Points, RowPairs):
    def __init__(self, candidates: int = 2):
        super().__init__()
        self.candidates = candidates

    @property
    def sizes(self) -> set[int]:
        return {self.candidates}

    def sample(self) -> list[PairRow]:
        return []

    def report(self) -> str:
        return "12 points."


@dataclass(frozen=True)
class PointData:
    """Of which pairs with other numbers of candidates are held out."""

    rows: list[RowMap] = field(default_factory=list)
    candidates: int = 2

    def open(self, seed: int) -> RowPoints:
        return RowPoints(self.candidates)


class InThrees(ValidationSplit):
    def plain(self, data: PointData) -> PointData:
        return PointData(candidates=3)


class PointBase:
    """A base whose reference is counted."""

    def __init__(self):
        self.network, self.references = scorer(), 0

    def reference(self) -> FrozenCopy:
        self.references += 1
        return FrozenCopy(self.network)

    def prepare(self, model: Any, raw: Any, draws: Any) -> tuple[Any, Any]:
        return model, raw

    def report(self) -> str:
        return "All were near."

    def save(self, folder: Path, writes: bool = True) -> None:
        torch.save(weights(self.network), folder / "weights.pt")


class Brings(PointPreference):
    """Gives the network a part that is trained with it."""

    def attach(self, policy: Any, seed: int) -> None:
        policy.register_parameter("brought", torch.nn.Parameter(torch.full((1,), float(seed))))


class Measured(Evaluation):
    def __init__(self):
        self.models = {}

    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        self.models = pipelines
        (output_dir / "report.json").write_text("{}")


def a_run(folder: Path, seed: int = 0):
    return open_run(FitConfig(**SHORT), folder, seed, None, "seed: 0")


@pytest.mark.parametrize("loaded", [LoadedStableDiffusion, LoadedCausalLM, PointBase])
def test_bases_of_all_tracks_play_one_role(loaded):
    assert all(hasattr(loaded, name) for name in ("reference", "prepare", "report", "save"))
    assert isinstance(PointBase(), LoadedBase)


def test_pairs_that_are_held_out_have_to_suit_as_well(tmp_path):
    run = a_run(tmp_path)
    pairs, held_out = open_pairs(PointPreference(), PointData(), None, run)
    assert (pairs.sizes, held_out) == ({2}, None)
    with pytest.raises(Refusal, match="PointPreference takes 2 candidates per row, rows have 3"):
        open_pairs(PointPreference(), PointData(), InThrees(), run)


def test_what_was_trained_is_written_and_told(tmp_path, capsys):
    base = PointBase()
    assert align(PointPreference(), base, RowPoints(), adamw(), a_run(tmp_path)) == "12 points. All were near."
    assert "12 points. All were near." in capsys.readouterr().out
    assert (torch.load(tmp_path / "weights.pt") == weights(base.network)).all()
    assert (weights(base.network) != weights(scorer())).any()


def test_the_reference_is_the_bases_or_the_one_chosen_or_one_that_remembers(tmp_path):
    chosen, kept = [], []

    def choose(network: torch.nn.Module) -> FrozenCopy:
        chosen.append(network)
        return FrozenCopy(network)

    def keep(make) -> FrozenCopy:
        kept.append(make())
        return kept[0]

    base = PointBase()
    align(PointPreference(), base, RowPoints(), adamw(), a_run(tmp_path / "own"))
    assert (base.references, chosen, kept) == (1, [], [])
    align(PointPreference(), base, RowPoints(), adamw(), a_run(tmp_path / "chosen"), choose)
    assert (base.references, chosen) == (1, [base.network])
    align(PointPreference(), base, RowPoints(), adamw(), a_run(tmp_path / "kept"), None, keep)
    assert (base.references, len(kept)) == (2, 1)
    with pytest.raises(Refusal, match="Only the untuned base can be remembered"):
        align(PointPreference(), base, RowPoints(), adamw(), a_run(tmp_path / "both"), choose, keep)


def test_what_an_objective_brings_is_no_part_of_the_reference(tmp_path):
    base, found = PointBase(), []

    def keep(make) -> FrozenCopy:
        found.append(dict(base.network.named_parameters()).keys())
        return make()

    align(Brings(), base, RowPoints(), adamw(), a_run(tmp_path, seed=7), None, keep)
    assert "brought" not in found[0]
    assert base.network.get_parameter("brought").item() == pytest.approx(7.0, rel=0.1)


def test_the_card_is_written_before_the_evaluation_and_after_it_and_then_all_is_published(tmp_path, capsys):
    evaluation, cards = Measured(), []

    def card(command: list[str]) -> None:
        cards.append((tmp_path / "report.json").exists())
        (tmp_path / "README.md").write_text("a card")

    models = {"base": 1, "tuned": 2}
    finish(a_run(tmp_path), card, evaluation, lambda: models, Publish("me/points", dry_run=True))
    assert cards == [False, True]
    assert evaluation.models == models
    assert "me/points would get" in capsys.readouterr().out


def test_a_card_that_cannot_be_written_is_told_and_the_rest_goes_on(tmp_path, caplog):
    def full(command: list[str]) -> None:
        raise OSError(28, "No space left on device")

    evaluation = Measured()
    finish(a_run(tmp_path), full, evaluation, dict)
    assert [record.message.startswith("The model card of") for record in caplog.records] == [True, True]
    assert (tmp_path / "report.json").exists()
