import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.text.data.row_maps import WithRationale

WHY = "{chosen} is right, {rejected} is {vague}."


def row(i: int = 0, prompt="Why {first}?") -> PairRow:
    return PairRow(i, (prompt, prompt), ("good", "bad"), extra={"rationale": WHY})


def explained(i: int, **changed) -> PairRow:
    changed_row = WithRationale()(row(i, **changed), Draws(0, (0,), (i,)))
    assert changed_row is not None
    return changed_row


def test_a_coin_says_what_stands_first_and_the_rationale_follows_it():
    found = set()
    for i in range(20):
        made = explained(i)
        first_is_good = made.prompts[2].index("good") < made.prompts[2].index("bad")
        names = ("first", "second") if first_is_good else ("second", "first")
        assert made.candidates == (
            "good",
            "bad",
            f"the {names[0]} answer is right, the {names[1]} answer is {{vague}}.",
        )
        assert "Question:\nWhy {first}?\n" in made.prompts[2]
        assert len(made.scores) == 3
        found.add(first_is_good)
    assert found == {True, False}


def test_of_a_conversation_the_question_becomes_a_message():
    made = explained(0, prompt=[{"role": "user", "content": "Why?"}])
    (message,) = made.prompts[2]
    assert message["role"] == "user"
    assert "Question:\nWhy?\n" in message["content"]


def test_what_would_argue_for_the_loser_is_refused():
    with pytest.raises(Refusal, match="sides of row 0 were exchanged"):
        WithRationale()(row().swapped(), Draws(0, (0,), (0,)))
    with pytest.raises(Refusal, match="lacks {second}; add"):
        WithRationale(template="{prompt} {first}")
    with pytest.raises(Refusal, match="takes pairs, row 0 has 3 candidates"):
        WithRationale()(explained(0), Draws(0, (0,), (0,)))
