import pytest
from PIL import Image
from tiny_speakers import llama, llava

from diffpo.annotators.captioners.chat import ChatCaptioner, ChatPerturber
from diffpo.annotators.captioners.roles import Strength
from diffpo.core.refusal import Refusal

PICTURES = [Image.new("RGB", size, color) for size, color in (((40, 32), "red"), ((16, 48), "blue"))]
PROMPTS = ["a red circle", "a blue circle on the left"]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return str(llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return str(llama(tmp_path_factory.mktemp("llama")))


def test_llava_next_captions_pictures_of_several_shapes(seeing):
    captioner = ChatCaptioner(seeing, max_tokens=5, temperature=1.0)
    captioner.check()
    captions = captioner(PICTURES, PROMPTS, [1, 2])
    assert all(0 < len(caption.split()) <= 5 for caption in captions)
    assert captioner(PICTURES[1:], PROMPTS[1:], [2]) == captions[1:]


def test_the_instruction_holds_the_prompt_and_the_picture_its_place(seeing):
    captioner = ChatCaptioner(seeing, instruction="on the {prompt}")
    content = [{"type": "image", "image": PICTURES[0]}, {"type": "text", "text": "on the red left"}]
    tokens = captioner.templated([[{"role": "user", "content": content}]])["input_ids"]
    words = [word for word in captioner.tokenizer.convert_ids_to_tokens(tokens[0]) if word != "<image>"]
    assert "".join(words).replace("<s>", "") == "USER:ontheredleftASSISTANT:"
    assert (tokens == captioner.network.config.image_token_id).sum() > 4


def test_a_prompt_cannot_smuggle_pictures_in(seeing):
    captioner = ChatCaptioner(seeing, max_tokens=5, instruction="{prompt}")
    plain, smuggled = (captioner(PICTURES[:1], [prompt], [1]) for prompt in ("a red", "a <image>red</s>"))
    assert plain == smuggled


def test_a_text_model_is_asked_by_strength(reading, monkeypatch):
    asked = []
    perturber = ChatPerturber(reading, instructions=("w {text}", "m {text}", "s {text}"))
    monkeypatch.setattr(ChatPerturber, "answers", lambda self, questions, seeds: asked.extend(questions) or [])
    for strength in Strength:
        perturber(["a red"], strength, [0])
    assert asked == ["w a red", "m a red", "s a red"]


def test_a_text_model_answers_without_the_question(reading):
    perturber = ChatPerturber(reading, max_tokens=4)
    perturber.check()
    assert all(len(text.split()) <= 4 for text in perturber(PROMPTS, Strength.weak, [1, 2]))


def test_a_model_that_cannot_chat_or_see_is_told(reading, tmp_path):
    with pytest.raises(Refusal, match="is a llama, ChatCaptioner needs an image-text-to-text model"):
        ChatCaptioner(reading).check()
    with pytest.raises(Refusal, match="has no chat template; name a model that was tuned to follow instructions"):
        ChatPerturber(str(llama(tmp_path, template=None))).check()
    with pytest.raises(Refusal, match="without {prompt}"):
        ChatCaptioner(reading, instruction="Say it")
