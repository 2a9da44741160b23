from diffpo.annotators.captioners.roles import Strategy, Strength, clean_text


def test_strengths_are_the_places_of_a_perturbers_settings():
    assert [("w", "m", "s")[strength.value] for strength in Strength] == ["w", "m", "s"]


def test_strategies_as_the_paper_has_them():
    told = {strategy.name: (strategy.captioned, strategy.perturbed) for strategy in Strategy}
    assert told == {
        "caption": ((0, 1), None),
        "perturb": ((), 1),
        "hybrid": ((0, 1), 1),
        "hybrid_of_winner": ((0,), 0),
    }


def test_a_text_is_one_line_and_blank_is_none():
    assert clean_text(" a\n red\tcircle ") == "a red circle"
    assert [clean_text(raw) for raw in (None, "", " \n")] == [None] * 3
    assert len(clean_text("圓" * 10_000) or "") == 10_000
