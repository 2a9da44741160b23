import pytest
from tiny import WIDTH, pipeline, pipeline_xl, unet

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.unets import require_text_to_image, require_unet_width, width_of


@pytest.mark.parametrize(("made", "width"), [(pipeline, WIDTH), (pipeline_xl, 3 * WIDTH)])
def test_the_width_of_all_text_encoders_is_that_of_the_network(made, width):
    pipe = made()
    assert width_of(pipe) == width
    require_unet_width(pipe.unet, width, "x")
    with pytest.raises(Refusal, match=f"x does not fit the text encoders: .* of width {width}, they give 7; name"):
        require_unet_width(pipe.unet, 7, "x")


def test_an_inpainting_network_is_refused_by_its_channels():
    pipe = pipeline()
    pipe.unet = unet(in_channels=9)
    with pytest.raises(Refusal, match="x is a StableDiffusionPipeline whose UNet takes 9 channels"):
        require_text_to_image(pipe, "x", None)
