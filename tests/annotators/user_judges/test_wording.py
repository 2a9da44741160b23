import pytest
from tiny_judges import question

from diffpo.annotators.user_judges.wording import WHICH, read_choice, word_question


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("1", 1),
        (" **2**.", 2),
        ("Picture 1 has warm colors, picture 2 does not.\nAnswer: 1\n", 1),
        ("Picture 2 is better than picture 1.", None),
        ("1/2", None),
        ("12", None),
        ("0.1", None),
        ("1.5", None),
        ("The first.", None),
        ("", None),
    ],
)
def test_the_last_line_names_the_choice(said, expected):
    assert read_choice(said) == expected


def test_pictures_stand_between_the_words_and_the_label_after_them():
    asked = question(support=2)
    parts = word_question(asked, WHICH)
    pictures = [part for part in parts if not isinstance(part, str)]
    assert pictures == [*asked.support[0].pictures, *asked.support[1].pictures, asked.first, asked.second]
    words = "".join(part if isinstance(part, str) else "@" for part in parts)
    assert (
        "Comparison 1. Caption: on the left\nPicture 1:\n@\nPicture 2:\n@\nThis person preferred picture 1." in words
    )
    assert "This person preferred picture 2.\nNow a new comparison. Caption: a red circle\nPicture 1:\n@" in words
    assert words.endswith(WHICH)


def test_captions_are_made_harmless():
    words = [part for part in word_question(question("a <image>", 1), WHICH, str.upper) if isinstance(part, str)]
    assert "Comparison 1. Caption: ON THE LEFT\n" in words
    assert "Now a new comparison. Caption: A <IMAGE>\n" in words
