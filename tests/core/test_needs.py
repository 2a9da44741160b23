from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffpo.core.needs import PAIR, Candidates
from diffpo.core.objective import Objective, Requirements, pair_step
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.pairs import RowPairs, require_suits
from diffpo.data.rows import PairRow
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.methods.capo import CaPO
from diffpo.diffusion.methods.dcpo import DCPO
from diffpo.diffusion.methods.dmpo import DMPO
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.mapo import MaPO
from diffpo.diffusion.methods.npo import JointGuidance
from diffpo.diffusion.methods.self_npo import SelfNPO
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.methods.smpo import SmPO
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.trajectories import FromNoise
from diffpo.losses.combined import AOT, Centered, Confidence, LengthNormalised, Sum
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.logistic import ODPO, Difference, LogRatio, Sigmoid
from diffpo.losses.margin import IPO
from diffpo.losses.reference_free import CPO, ORPO, SimPO
from diffpo.losses.two_sided import BCO, NCA
from diffpo.text.data.completions import Segment
from diffpo.text.data.pictures import PictureAnswer
from diffpo.text.methods.hpo import HPO
from diffpo.text.methods.mdpo import MDPO
from diffpo.text.methods.rationales import RationalePreference
from diffpo.text.methods.rrpo import RRPO
from diffpo.text.methods.sft import SFT as TextSFT
from diffpo.text.methods.sparsepo import SparsePO
from diffpo.text.methods.spo_self_supervised import SelfSupervised
from diffpo.text.methods.tpo_tree import TPO
from diffpo.text.objective.preference import SequencePreference


class Listed(RowPairs):
    """Rows as they are given."""

    def __init__(self, rows: list[PairRow]):
        self.rows = rows

    @property
    def size(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> set[int]:
        return {len(row.candidates) for row in self.rows}

    def sample(self) -> list[PairRow]:
        return self.rows

    def report(self) -> str:
        return f"{len(self.rows)} rows."

    def batches(self, share: ProcessShare):
        raise AssertionError("a batch was read")


def listed(k: int = 2, n: int = 3, **changed) -> Listed:
    row = PairRow(0, ("asked",) * k, tuple("abcdefgh"[:k]), scores=(0.0,) * k)
    return Listed([replace(row, id=i, **changed) for i in range(n)])


def scored(*scores: float) -> Listed:
    return listed(len(scores), scores=scores)


def seen() -> Listed:
    picture = Held(Image.new("RGB", (8, 8)), Path())
    return listed(3, candidates=(PictureAnswer((Segment("a"),), picture),) * 3)


SOFT, RAW = listed(prob=0.75), scored(21.0, 19.0)
UNCERTAIN = "Confidence needs labels that are uncertain, and no row has one: gamma 10 .*; end data.rows with .*ScoreLa"
MARGIN, COMPARES = "needs a loss of the margin, and", "needs a loss that compares likelihoods, .* and"
CALIBRATED = r"CaPO needs calibrated scores, which are win rates in \[0, 1\] .*Calibrated"


@pytest.mark.parametrize(
    ("objective", "lacking", "enough", "told"),
    [
        (SmPO(), listed(), SOFT, UNCERTAIN),
        (DenoisingPreference(Confidence(Sigmoid())), listed(), SOFT, UNCERTAIN),
        (DenoisingPreference(LengthNormalised(Confidence(Sigmoid()))), listed(), SOFT, UNCERTAIN),
        (JointGuidance(Sum([IPO(), Confidence(IPO())], [1.0, 1.0])), listed(), SOFT, UNCERTAIN),
        (SequencePreference(Confidence(Sigmoid())), listed(), SOFT, UNCERTAIN),
        (SparsePO(Confidence(Sigmoid())), listed(), SOFT, UNCERTAIN),
        (RRPO(Confidence(Sigmoid())), listed(), SOFT, UNCERTAIN),
        (
            RationalePreference(SequencePreference(Confidence(Sigmoid()))),
            listed(3),
            listed(3, prob=0.5),
            UNCERTAIN,
        ),
        (SelfSupervised(SequencePreference(Confidence(Sigmoid()))), listed(6), listed(6, prob=0.6), UNCERTAIN),
        (
            DCPO(),
            listed(),
            listed(prompts=("a", "b")),
            "DCPO needs a caption for each picture.*DualCaptions to data.rows",
        ),
        (DenoisingPreference(CaPO()), listed(), scored(0.75, 0.25), CALIBRATED),
        (DenoisingPreference(CaPO()), RAW, scored(1.0, 0.0), CALIBRATED),
        (SequencePreference(ODPO()), listed(), RAW, "ODPO needs a higher score on the chosen side; score the pairs"),
        (SequencePreference(ODPO()), scored(1.0, 2.0), RAW, "ODPO needs a higher score on the chosen side"),
        (
            SequencePreference(ODPO(gap=LogRatio())),
            scored(1.0, -1.0),
            RAW,
            "LogRatio needs positive scores; use ",
        ),
        (SequencePreference(ODPO(gap=LogRatio())), scored(1.0, 0.0), RAW, "LogRatio needs positive scores"),
        (
            HPO(),
            listed(),
            scored(0.5, 0.25),
            "HPO needs rewards, which are not all 0; add .*methods.Rewards to data.rows",
        ),
        (TPO(), listed(4), scored(1.0, 0.5, 0.5, 0.0), r"TPO needs scores in \[0, 1\] that differ .*Lists"),
        (TPO(), RAW, scored(1.0, 0.0), r"TPO needs scores in \[0, 1\]"),
        (MDPO(), listed(3), seen(), "MDPO needs answers about pictures; end data.rows with .*CorruptedPicture"),
        (SequencePreference(AOT(SimPO())), listed(), None, f"AOT {MARGIN} SimPO sees more"),
        (
            SequencePreference(JensenShannon(NCA())),
            listed(),
            None,
            f"JensenShannon {MARGIN} NCA",
        ),
        (SequencePreference(AlphaDivergence(ORPO())), listed(), None, f"AlphaDivergence {MARGIN} ORPO"),
        (
            SequencePreference(Confidence(ORPO())),
            SOFT,
            None,
            f"Confidence {COMPARES} ORPO reads more",
        ),
        (
            DenoisingPreference(Confidence(MaPO())),
            SOFT,
            None,
            f"Confidence {COMPARES} MaPO reads more",
        ),
        (
            SequencePreference(Centered(ORPO())),
            listed(),
            None,
            f"Centered {COMPARES} ORPO reads more",
        ),
    ],
)
def test_what_an_objective_needs_is_checked_before_a_run(objective, lacking, enough, told):
    with pytest.raises(Refusal, match=told) as caught:
        require_suits(objective, lacking)
    assert "\n" not in str(caught.value)
    if enough is not None:
        require_suits(objective, enough)


def test_one_uncertain_label_among_certain_ones_is_enough():
    require_suits(SmPO(), Listed([*listed().rows, *SOFT.rows[:1]]))


def test_a_verdict_on_a_single_picture_is_certain():
    """Its label is 1 or 0."""
    assert not any(need.met(listed(1, prob=0.0).rows) for need in SmPO().requires.of_rows[:1])


@pytest.mark.parametrize(
    "loss",
    [
        Sigmoid(),
        IPO(),
        CPO(),
        BCO(),
        ODPO(gap=Difference()),
        AOT(IPO()),
        JensenShannon(IPO()),
        AlphaDivergence(),
        Centered(BCO()),
        DMPO(),
        LengthNormalised(AOT()),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_other_losses_take_certain_labels_without_a_word(loss):
    require_suits(SequencePreference(loss), scored(1.0, 0.5))


ANY, ONE = Candidates(1), Candidates(1, 2)
TAKES: list[tuple[Objective, Candidates]] = [
    *((objective, PAIR) for objective in (DenoisingPreference(), DCPO(), InPO(), JointGuidance(), DSPO())),
    *((objective, PAIR) for objective in (SequencePreference(), HPO(), SparsePO(), RRPO())),
    *((objective, ANY) for objective in (SFT(), TextSFT(), SelfNPO())),
    (SelfNPO(FromNoise()), Candidates(0)),
    (KTO(), ONE),
    (TPO(), Candidates(2)),
    (MDPO(), Candidates(3, 3)),
    (RationalePreference(), Candidates(3, 3)),
    (SelfSupervised(levels=2), Candidates(4, 4)),
]


@dataclass(frozen=True)
class Needless(Objective):
    """The candidates of another objective, without its needs."""

    of: Objective

    @property
    def requires(self) -> Requirements:
        return Requirements(self.of.requires.candidates)

    def __call__(self, policy, reference, batch, draws):
        raise NotImplementedError


@pytest.mark.parametrize(("objective", "takes"), TAKES, ids=lambda given: str(given)[:30])
@pytest.mark.parametrize("k", range(6))
def test_how_many_candidates_an_objective_takes_is_exact(objective, takes, k):
    asked = Needless(objective)
    if takes.least <= k <= (takes.most or k):
        require_suits(asked, listed(k))
        return
    with pytest.raises(Refusal, match=f"Needless takes {takes} candidates per row, rows have {k}; "):
        require_suits(asked, listed(k))


@pytest.mark.parametrize(
    ("objective", "remedy"),
    [
        (MDPO(), "CorruptedPicture"),
        (RationalePreference(), "WithRationale"),
        (SelfSupervised(levels=2), "Degrade of 2 levels"),
    ],
)
def test_where_a_row_map_makes_the_candidates_it_is_named(objective, remedy):
    with pytest.raises(Refusal, match=f"takes . candidates per row, rows have 2; end data.rows with .*{remedy}"):
        require_suits(objective, listed())


def test_rows_of_several_sizes_are_refused():
    mixed = Listed([*scored(1.0, 0.5, 0.0).rows, *scored(1.0, 0.5).rows])
    with pytest.raises(Refusal, match="Rows have 2 or 3 candidates, a batch needs equally many; .*ListOf come first"):
        require_suits(TPO(), mixed)
    with pytest.raises(Refusal, match="SequencePreference takes 2 candidates per row, rows have 3"):
        require_suits(SequencePreference(), mixed)


@dataclass(frozen=True)
class Best(PairLoss):
    """Of a list, the best against the mean of the others."""

    @property
    def needs_candidates(self) -> Candidates:
        return Candidates(2)

    def __call__(self, pair, label):
        return pair.log_ratio[1:].mean(0) - pair.log_ratio[0]


def four() -> PairLogps:
    return PairLogps(torch.arange(8.0).reshape(4, 2), torch.zeros(4, 2), torch.ones(4, 2))


def test_a_loss_of_lists_says_so_and_is_given_them():
    label = PairLabels(torch.ones(2), torch.zeros(4, 2), torch.ones(2))
    for loss in (Best(), LengthNormalised(Best()), Sum([Best()], [1.0])):
        assert loss.needs_candidates == Candidates(2)
        require_suits(SequencePreference(loss), listed(4))
        assert pair_step(loss, four(), label).loss == 4.0
    assert Sum([Best(), Sigmoid()], [1.0, 1.0]).needs_candidates == PAIR


@pytest.mark.parametrize(
    "loss", [Sigmoid(), SimPO(), NCA(), CPO(), AOT(), MaPO()], ids=lambda loss: type(loss).__name__
)
def test_a_loss_of_pairs_refuses_a_list_in_any_loop(loss):
    with pytest.raises(Refusal, match=f"{type(loss).__name__} takes 2 candidates per row, rows have 4"):
        pair_step(loss, four(), PairLabels.hard(2))


@pytest.mark.parametrize("make", [SequencePreference, SparsePO, RRPO, HPO])
def test_texts_have_no_errors_of_a_denoiser(make):
    for loss in (MaPO(), LengthNormalised(MaPO()), Sum([Sigmoid(), MaPO()], [1.0, 1.0])):
        with pytest.raises(Refusal, match="needs the errors of a denoiser, texts have likelihoods"):
            make(loss)


def test_errors_that_are_scaled_or_weighted_are_no_plain_errors():
    DenoisingPreference(MaPO())
    with pytest.raises(Refusal, match="MaPO needs plain errors, here they have scale 50000"):
        DenoisingPreference(MaPO(), scale=5e4)


def test_masked_sums_are_no_probabilities():
    with pytest.raises(Refusal, match="ORPO needs true probabilities, masked sums are none"):
        SparsePO(ORPO())
