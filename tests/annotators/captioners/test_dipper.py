import pytest
from tiny_speakers import t5

from diffpo.annotators.captioners.dipper import Dipper, slide_windows
from diffpo.annotators.captioners.roles import Strength
from diffpo.core.refusal import Refusal


def test_control_codes_are_a_hundred_minus_the_diversity():
    asked = [Dipper().asked("a circle", [], strength) for strength in Strength]
    assert asked == [f"lexical = {code}, order = 100 <sent> a circle </sent>" for code in (60, 40, 20)]


def test_it_reads_what_it_made_of_the_sentences_before():
    said = Dipper(prefix="Paraphrase").asked("c d", ["x y.", "z."], Strength.weak)
    assert said == "lexical = 60, order = 100 Paraphrase x y. z. <sent> c d </sent>"


def test_sentences_are_taken_three_at_a_time():
    assert slide_windows("A b.  C d! E?\nF 3.5 g. H", 3) == ["A b. C d! E?", "F 3.5 g. H"]
    assert slide_windows("no mark", 3) == ["no mark"]


def test_texts_of_different_lengths_in_one_batch(tmp_path):
    folder = str(t5(tmp_path))
    dipper = Dipper(folder, vocabulary=folder, max_tokens=4, sentences=1)
    dipper.check()
    texts = ["a red. a blue. a circle.", "on the left", "a red circle. on the right."]
    together = dipper(texts, Strength.medium, [1, 2, 3])
    assert [
        max(1, len(text.split())) <= 4 * len(slide_windows(asked, 1))
        for text, asked in zip(together, texts, strict=True)
    ]
    assert [
        dipper([text], Strength.medium, [seed])[0] for text, seed in zip(texts, (1, 2, 3), strict=True)
    ] == together


def test_a_diversity_on_which_it_was_not_trained_is_refused():
    with pytest.raises(Refusal, match="Dipper knows the diversities 0, 20, 40, 60, 80 and 100, not 50"):
        Dipper(diversity=(40, 50, 60))
