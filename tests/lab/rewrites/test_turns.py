import numpy as np

from diffpo.lab.rewrites.requests import split_requests
from diffpo.lab.rewrites.turns import answered, held, messages, rated, sample_conversations
from diffpo.lab.rewrites.writing import Writing, write
from diffpo.lab.shapes.scenes import Attributes
from diffpo.text.data.chat import ChatTemplate

ASKED = Attributes("red", "circle")
GOOD, BAD = "a large red circle in the center, white background", "a small blue circle on the left, gray background"


def test_conversations_alternate_and_have_two_or_three_turns(model, tokenizer):
    table = sample_conversations(model, tokenizer, split_requests().training, pairs=4, turns=3)
    for row in table:
        for side in (row["chosen"], row["rejected"]):
            assert {message["role"] for message in side[::2]} == {"assistant"}
            assert {message["role"] for message in side[1::2]} == {"user"}
        assert row["chosen"][1::2] == row["rejected"][1::2]
    assert {len(row["chosen"]) for row in table} == {3, 5}


def test_parts_of_a_conversation_are_its_turns(tokenizer):
    said = ChatTemplate(tokenizer)([{"role": "user", "content": "a"}], messages(["a", "b"], [GOOD, BAD]))
    assert [segment.part for segment in said.completion.segments if segment.scored] == [1, 2]


def test_a_later_turn_is_written_as_the_template_writes_it(model, tokenizer, monkeypatch):
    """What the model reads in the second turn is what it will be trained on."""
    read = []

    def noted(model, tokenizer, prompts, writing, title=None):
        read.append(prompts[0])
        return [["a red circle"]]

    monkeypatch.setattr("diffpo.lab.rewrites.turns.write", noted)
    held(model, tokenizer, [["something red", "a circle"]], Writing())
    conversation = [{"role": "user", "content": "something red"}, {"role": "assistant", "content": "a red circle"}]
    conversation.append({"role": "user", "content": "a circle"})
    template = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert tokenizer.bos_token + read[1] == template


def test_the_better_conversation_is_mostly_chosen():
    rng = np.random.default_rng(0)
    rows = [rated(["r", "s"], [ASKED, ASKED], [BAD, BAD], [GOOD, GOOD], rng) for _ in range(50)]
    assert sum(row["chosen"][0]["content"] == GOOD for row in rows) > 45


def test_one_turn_is_plain_writing(model, tokenizer):
    asked = ["a red circle:", "a blue shape:", "a cross:"]
    writing = Writing(rewrites=2, tokens=6, seed=3)
    assert answered(model, tokenizer, asked, writing) == write(model, tokenizer, asked, writing)


def test_prompts_in_a_row_are_asked_in_one_conversation(model, tokenizer, monkeypatch):
    """Four prompts in conversations of three: the second and third are read after what was said before."""
    read = []

    def noted(model, tokenizer, prompts, writing, title=None):
        read.extend(prompts)
        return [[f"answer {len(read) - len(prompts) + n}"] for n in range(len(prompts))]

    monkeypatch.setattr("diffpo.lab.rewrites.turns.write", noted)
    found = answered(model, tokenizer, ["a:", "b:", "c:", "d:"], Writing(rewrites=2), turns=3)
    assert read[:4] == ["a:", "a:", "d:", "d:"]
    assert read[4:6] == ["a: answer 0</s>b:", "a: answer 1</s>b:"]
    assert read[6] == "a: answer 0</s>b: answer 4</s>c:"
    assert found == [[f"answer {2 * n}", f"answer {2 * n + 1}"] for n in (0, 2, 3, 1)]
