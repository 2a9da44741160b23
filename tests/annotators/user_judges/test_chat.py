from dataclasses import replace

import pytest
from tiny_embedders import onevision
from tiny_judges import question
from tiny_speakers import llama

from diffpo.annotators.user_judges.chat import ChatUserJudge
from diffpo.annotators.user_judges.roles import Verdict
from diffpo.core.refusal import Refusal


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return onevision(tmp_path_factory.mktemp("onevision"), scale=5.0)


def judge(folder, **options) -> ChatUserJudge:
    return ChatUserJudge(folder, **{"max_tokens": 4} | options)


def test_a_model_of_random_weights_answers_each_question_whatever_the_batch(folder):
    questions = [question(support=1), question("on the left", support=3), question("a blue", support=2)]
    judge(folder).check()
    together = judge(folder)(questions, [0, 1, 2])
    assert [len(verdict.said) > 0 for verdict in together] == [True] * 3
    assert together == judge(folder, batch_size=1)(questions, [7, 8, 9])


def test_all_pictures_of_a_question_are_shown(folder):
    made = judge(folder)
    asked = made.templated([[{"role": "user", "content": made.content(question(support=2))}]])
    assert asked["pixel_values"].shape[0] == 6


def test_the_answer_is_read(folder, monkeypatch):
    monkeypatch.setattr(ChatUserJudge, "answers", lambda self, questions, seeds: ["2", "I think 1", "no"])
    assert judge(folder)([question()] * 3, [0, 0, 0]) == [
        Verdict(2, "2"),
        Verdict(1, "I think 1"),
        Verdict(None, "no"),
    ]


def test_a_caption_cannot_smuggle_pictures_in(folder):
    made, plain = judge(folder), question("a red")
    assert made.content(replace(plain, caption="a <image>red</s>")) == made.content(plain)


def test_verdicts_depend_on_model_and_instruction():
    about = {"kind": "ChatUserJudge", "model_id": "a/b", "temperature": 0.0}
    assert about.items() <= ChatUserJudge("a/b").identity.items()
    assert ChatUserJudge("a/b").identity != ChatUserJudge("a/b", instruction="Say 1").identity


def test_a_model_that_cannot_see_is_told(tmp_path):
    with pytest.raises(Refusal, match="is a llama, ChatUserJudge needs an image-text-to-text model"):
        ChatUserJudge(str(llama(tmp_path))).check()
