import pytest
import torch
from letter_judges import Number, Table, bradley_terry, draws, paired

from diffpo.core.refusal import Refusal
from diffpo.rounds.judges import FromScorer
from diffpo.rounds.pairings import (
    AgainstOpponent,
    AllPairs,
    BestWorst,
    FirstRound,
    Rejection,
    Tournament,
    WithCalibration,
    accept_candidates,
    ask_wins,
    mean_wins,
)
from diffpo.rounds.questions import Recording

# Rows against columns: a beats b, b beats c, c beats a; d loses to b and c, ties with a.
CYCLE = Table([[0.5, 0.8, 0.3, 0.5], [0.2, 0.5, 0.6, 0.6], [0.7, 0.4, 0.5, 0.7], [0.5, 0.4, 0.3, 0.5]])


def test_row_means_of_the_matrix_add_up_to_half_of_the_candidates():
    wins = [[0.5, 0.8, 0.6, 0.4], [0.2, 0.5, 0.4, 0.7], [0.4, 0.6, 0.5, 0.5], [0.6, 0.3, 0.5, 0.5]]
    found = mean_wins(ask_wins(Table(wins), ["p"], [["a"], ["b"], ["c"], ["d"]]))
    assert torch.allclose(found[:, 0], torch.tensor([0.6, 0.4333, 0.5, 0.4667], dtype=torch.float64), atol=1e-4)
    assert found.sum().item() == pytest.approx(2)


def test_best_and_worst_by_scores_cost_no_question_of_others():
    judge = FromScorer(Number(), temperature=1.0)
    [pair] = paired(BestWorst(), judge, "1", "4", "2", "1")
    assert (pair.chosen, pair.rejected, pair.score) == (1, 3, (4.0, 1.0))
    assert pair.prob == pytest.approx(0.952574)


def test_a_gap_leaves_out_pairs_that_differ_less():
    judge = FromScorer(Number(), temperature=0.0)
    assert paired(BestWorst(3.0), judge, "1", "4") == []
    assert len(paired(BestWorst(2.9), judge, "1", "4")) == 1
    assert paired(BestWorst(), judge, "4", "4") == []


def test_best_and_worst_by_mean_win_rates_carry_them_and_the_probability():
    judge = bradley_terry(3)
    [pair] = paired(BestWorst(), judge, "c", "a", "b")
    assert (pair.chosen, pair.rejected) == (1, 0)
    assert pair.prob == pytest.approx(0.880797)
    assert pair.score == pytest.approx(((0.731059 + 0.880797) / 2, (0.268941 + 0.119203) / 2))
    assert judge.asked == 3


def test_all_pairs_are_ordered_by_who_wins_and_ties_are_none():
    found = paired(AllPairs(), CYCLE, *"abcd")
    assert [(pair.chosen, pair.rejected, round(pair.prob, 3)) for pair in found] == [
        (0, 1, 0.8),
        (2, 0, 0.7),
        (1, 2, 0.6),
        (1, 3, 0.6),
        (2, 3, 0.7),
    ]
    assert [pair.prob for pair in paired(AllPairs(0.3), CYCLE, *"abcd")] == pytest.approx([0.8, 0.7, 0.7])


@pytest.mark.parametrize(("k", "questions"), [(2, 1), (3, 2), (4, 5), (5, 6), (8, 11)])
def test_a_tournament_asks_for_the_first_and_the_last_alone(k, questions):
    judge = Recording(bradley_terry(k))
    letters = [chr(97 + (3 * i + 1) % k) if k % 3 else chr(97 + i) for i in range(k)]
    [pair] = paired(Tournament(), judge, *letters)
    assert letters[pair.chosen] == "a"
    assert judge.asked == questions
    if k in (2, 4, 8):  # without byes, who is last loses its first match
        assert letters[pair.rejected] == chr(96 + k)


def test_a_tie_in_a_match_goes_to_the_first_and_one_in_the_final_makes_no_pair():
    even = Table([[0.5, 0.5], [0.5, 0.5]])
    assert paired(Tournament(), even, "a", "b") == []
    assert even.asked == 2
    tied = Table([[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5]])
    [pair] = paired(Tournament(), tied, *"abcd")
    assert (pair.chosen, pair.rejected) == (0, 3)


def test_a_first_round_makes_disjoint_pairs_whose_chosen_side_is_likelier():
    judge = bradley_terry(5)
    found = paired(FirstRound(), judge, *"bacde")
    assert [(pair.chosen, pair.rejected) for pair in found] == [(1, 0), (2, 3)]
    assert all(pair.prob == pytest.approx(0.731059) for pair in found)
    assert judge.asked == 2


def test_two_are_scored_against_their_opponent():
    [pair] = paired(AgainstOpponent(), CYCLE, *"abc")
    assert (pair.chosen, pair.rejected, pair.prob) == (1, 0, 1.0)
    assert pair.score == pytest.approx((0.6, 0.3))
    [tie] = paired(AgainstOpponent(), Table([[0.5, 0.1, 0.7], [0.9, 0.5, 0.7], [0.3, 0.3, 0.5]]), *"abc")
    assert tie.prob == 0.5
    assert tie.score == pytest.approx((0.7, 0.7))
    assert paired(AgainstOpponent(), CYCLE, *"aab") == []
    with pytest.raises(Refusal, match="takes 3 candidates"):
        AgainstOpponent().require_suits(4)


@pytest.mark.parametrize("pairing", [BestWorst(), AllPairs(), Tournament(), FirstRound()])
def test_equal_candidates_are_no_pair_and_nobody_is_asked(pairing):
    judge = Recording(FromScorer(Number(), temperature=0.0))
    assert paired(pairing, judge, "1", "1", "1", "1") == []
    always = Table([[0.9]])  # "a" beats "a"
    assert paired(pairing, always, "a", "a") == []


def test_the_first_sweep_accepts_by_the_distance_to_the_best():
    rewards = torch.tensor([[1.0], [0.5], [0.0]]).expand(3, 4000)
    first = accept_candidates(rewards, 1, 0.5, draws(4000))
    # With n = 1 the first in random order among the accepted is kept; so count over whole sweeps instead.
    kept = accept_candidates(rewards, 3, 0.5, draws(4000))
    assert all(sorted(some) == [0, 1, 2] for some in kept)
    assert all(len(some) == 1 for some in first)
    best = [some[0] == 0 for some in accept_candidates(rewards, 1, 1e-6, draws(4000))]
    assert all(best)


def test_candidates_are_accepted_with_the_probabilities_of_the_paper():
    """exp((r - 1) / 0.5) of rewards 1, 0.5 and 0: 1, 0.3679, 0.1353, seen in who is accepted in the first sweep."""
    n = 4000
    coin = torch.special.ndtr(draws(n).normal("rejection/0", 2, 3).double())[:, 0]
    share = (coin < torch.exp((torch.tensor([1.0, 0.5, 0.0]) - 1) / 0.5)).double().mean(0)
    assert torch.allclose(share, torch.tensor([1.0, 0.3679, 0.1353], dtype=torch.float64), atol=0.025)
    kept = accept_candidates(torch.tensor([[1.0], [0.5], [0.0]]).expand(3, n), 2, 0.5, draws(n))
    # The two that are kept lack the best one only if the first sweep accepts all and the best comes last: p q / 3.
    lacking = sum(0 not in some for some in kept) / n
    assert lacking == pytest.approx(0.3679 * 0.1353 / 3, abs=0.006)


def test_small_beta_takes_the_best_large_beta_whoever_comes_and_a_shift_changes_nothing():
    rewards = torch.tensor([[0.1], [2.0], [1.0], [-3.0], [1.5]]).expand(5, 50)
    assert all(set(some) == {1, 4, 2} for some in accept_candidates(rewards, 3, 1e-6, draws(50)))
    anyone = accept_candidates(rewards, 2, 1e6, draws(50))
    assert {i for some in anyone for i in some} == set(range(5))
    assert accept_candidates(rewards + 7, 3, 0.5, draws(50)) == accept_candidates(rewards, 3, 0.5, draws(50))
    kept = accept_candidates(rewards, 4, 0.5, draws(50))
    assert all(len(set(some)) == 4 for some in kept)


def test_rejection_pairs_those_that_it_accepts_by_their_own_numbers():
    judge = FromScorer(Number(), temperature=0.0)
    sides = [["0", "9"], ["5", "1"], ["9", "0"], ["6", "7"]]
    found = Rejection(BestWorst(), n=2, beta=1e-6)(["p", "q"], sides, judge, judge.scores(["p", "q"], sides), draws(2))
    assert [pair[:3] for pair in found] == [(0, 2, 3), (1, 0, 3)]
    assert [pair.score for pair in found] == [(9.0, 6.0), (9.0, 7.0)]
    all_of_them = Rejection(BestWorst(), n=8, beta=0.5)(
        ["p", "q"], sides, judge, judge.scores(["p", "q"], sides), draws(2)
    )
    assert [pair[:3] for pair in all_of_them] == [(0, 2, 0), (1, 0, 2)]


def test_rejection_without_scores_rates_by_who_beats_the_first():
    judge = Recording(bradley_terry(4))
    [pair] = paired(Rejection(FirstRound(), n=2, beta=1e-6), judge, *"cadb")
    assert (pair.chosen, pair.rejected) == (1, 3)
    assert judge.asked == 4


@pytest.mark.parametrize("pairing", [BestWorst(), AllPairs(), Tournament(), Rejection(BestWorst(), n=3, beta=0.7)])
def test_permuting_candidates_permutes_everything(pairing):
    judge, texts = FromScorer(Number(), temperature=2.0), ["1", "4", "2", "7"]
    order = [2, 0, 3, 1]
    found = paired(pairing, judge, *texts)
    moved = paired(pairing, judge, *(texts[i] for i in order))
    assert {(texts[p.chosen], texts[p.rejected], p.prob, p.score) for p in found} == {
        (texts[order[p.chosen]], texts[order[p.rejected]], p.prob, p.score) for p in moved
    }
    assert found


def test_one_candidate_is_refused_and_so_is_a_matrix_that_is_none():
    with pytest.raises(Refusal, match="BestWorst compares 2 candidates or more, there is 1"):
        BestWorst().require_suits(1)
    with pytest.raises(Refusal, match="2 candidates"):
        Rejection(FirstRound()).require_suits(1)

    class Lopsided(Table):
        def wins(self, prompts, candidates):
            return torch.full((2, 2, 1), 0.7)

    for pairing in (AllPairs(), BestWorst()):
        with pytest.raises(Refusal, match="add up to 1"):
            paired(pairing, Lopsided([[0.5]]), "a", "b")
        with pytest.raises(Refusal, match="probability"):
            paired(pairing, Table([[0.5, torch.nan], [0.5, 0.5]]), "a", "b")


def test_the_last_candidate_goes_with_each_pair_and_is_compared_with_none():
    """It would be the best, and by win rates no question is asked about it."""
    [pair] = paired(WithCalibration(), FromScorer(Number(), temperature=0.0), "1", "4", "2", "9")
    assert (pair.chosen, pair.rejected, pair.calibration) == (1, 0, 3)
    judge = Table(CYCLE.table.tolist())
    pairs = paired(WithCalibration(AllPairs()), judge, "a", "b", "c")
    assert [(pair.chosen, pair.rejected, pair.calibration) for pair in pairs] == [(0, 1, 2)]
    assert judge.asked == 1
    with pytest.raises(Refusal, match="compares 2 candidates or more, there is 1"):
        WithCalibration().require_suits(2)
