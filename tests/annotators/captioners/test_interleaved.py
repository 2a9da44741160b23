import pytest
from tiny import picture
from tiny_embedders import onevision
from tiny_speakers import TEMPLATE as IN_ORDER

from diffpo.annotators.captioners.interleaved import Interleaved
from diffpo.core.refusal import Refusal


def content(*parts) -> list[dict]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return onevision(tmp_path_factory.mktemp("onevision"), scale=5.0)


def test_pictures_stand_where_they_stand_in_the_question_whatever_the_template_does(folder, tmp_path):
    asked = content("a red", picture(), "circle on", picture(seed=1), "the left")
    for path in (folder, onevision(tmp_path, IN_ORDER)):
        model = Interleaved(path)
        tokens = model.templated([[{"role": "user", "content": asked}]])["input_ids"][0].tolist()
        words = [word for word in model.tokenizer.convert_ids_to_tokens(tokens) if word not in (":", "<s>")]
        runs = [word for word, before in zip(words, [None, *words], strict=False) if word != before]
        assert runs == ["USER", "a", "red", "<image>", "circle", "on", "<image>", "the", "left", "ASSISTANT"]


def test_questions_with_different_numbers_of_pictures_are_answered_together_as_alone(folder):
    asked = [content("a", picture(), "red"), content("the", picture(seed=1), "on", picture(seed=2), "left")]
    model = Interleaved(folder, max_tokens=4, temperature=0.0)
    assert model.answers(asked, [0, 0]) == [model.answers([one], [0])[0] for one in asked]


def test_a_template_without_pictures_is_told(tmp_path):
    blind = onevision(tmp_path / "blind", "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    with pytest.raises(Refusal, match="has no place for pictures; name another model"):
        Interleaved(blind).check()
