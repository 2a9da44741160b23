import pytest
from PIL import Image
from tiny_speakers import blip, llama

from diffpo.annotators.captioners.blip import Blip
from diffpo.core.refusal import Refusal

PICTURES = [Image.new("RGB", (40, 32), color) for color in ("red", "blue")]


def test_blip_captions_whatever_the_prompt(tmp_path):
    captioner = Blip(str(blip(tmp_path)), max_tokens=5, temperature=1.0)
    captioner.check()
    captions = captioner(PICTURES, ["a", "b"], [1, 2])
    assert all(0 < len(caption.split()) <= 5 for caption in captions)
    assert captioner(PICTURES[1:], ["c"], [2]) == captions[1:]


def test_another_model_is_told(tmp_path):
    with pytest.raises(Refusal, match="is a llama, Blip needs a BLIP captioning model"):
        Blip(str(llama(tmp_path))).check()
