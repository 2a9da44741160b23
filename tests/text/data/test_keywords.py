from diffpo.text.data.keywords import find_phrases, rank_phrases, remove_phrases

TEXT = "The red fox runs, and the red barn is old; red fox!"


def words(text: str) -> list[str]:
    return [" ".join(phrase.words) for phrase in find_phrases(text)]


def test_phrases_lie_between_stop_words_and_punctuation():
    assert words(TEXT) == ["red fox runs", "red barn", "old", "red fox"]
    assert words("It isn't what you'd call well-known.") == ["call well-known"]
    assert words("The and of") == []


def test_the_ranking_by_hand():
    """Degree / frequency: red 7/3, fox 5/2, runs 3, barn 2, old 1; so 7.83, 4.83 (red fox), 4.33 (red barn), 1."""
    assert [" ".join(phrase) for phrase in rank_phrases(find_phrases(TEXT))] == [
        "red fox runs",
        "red fox",
        "red barn",
        "old",
    ]


def test_of_equals_the_earlier_comes_first():
    assert rank_phrases(find_phrases("cat and dog and bird")) == [("cat",), ("dog",), ("bird",)]


def test_removed_phrases_are_gone_wherever_they_stand():
    found = find_phrases(TEXT)
    assert remove_phrases(TEXT, found, set()) == TEXT
    assert remove_phrases(TEXT, found, {("red", "fox")}) == "The red fox runs, and the red barn is old;!"
    assert remove_phrases(TEXT, found, set(rank_phrases(found))) == "The, and the is;!"
