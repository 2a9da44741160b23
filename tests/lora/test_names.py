import pytest
import torch
from diffusers import UNet2DConditionModel
from single_file import unet_name
from tiny import pipeline, pipeline_xl, unet, unet_xl

from diffpo.lora.files import layer_shapes
from diffpo.lora.names import guess_kind, is_wrapped, layer_names, original_names, split_key

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
UNDERSCORED = Q.replace(".", "_")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (f"unet.{Q}.lora_A.weight", ("unet", Q, "down")),
        (f"unet.{Q}.lora_B.default.weight", ("unet", Q, "up")),
        (f"unet.{Q}.lora.down.weight", ("unet", Q, "down")),
        (f"{Q.replace('.to_q', '.processor.to_q_lora.up.weight')}", ("unet", Q, "up")),
        (f"base_model.model.{Q}.lora_magnitude_vector", ("unet", Q, "magnitude")),
        (f"module.unet._orig_mod.{Q}.lora_magnitude_vector.default.weight", ("unet", Q, "magnitude")),
        (f"lora_unet_{UNDERSCORED}.alpha", ("unet", UNDERSCORED, "alpha")),
        (f"lora_unet__orig_mod_{UNDERSCORED}.dora_scale", ("unet", UNDERSCORED, "magnitude")),
        ("lora_te_text_model_q.lora_down.weight", ("text_encoder", "text_model_q", "down")),
        ("lora_te1_text_model_q.lora_up.weight", ("text_encoder", "text_model_q", "up")),
        ("lora_te2_text_model_q.alpha", ("text_encoder_2", "text_model_q", "alpha")),
        ("text_encoder_2.fc1.lora_linear_layer.down.weight", ("text_encoder_2", "fc1", "down")),
        ("transformer.proj.lora_A.weight", ("transformer", "proj", "down")),
        ("conv_in.weight", ("unet", "conv_in.weight", None)),
        (f"unet.{Q}.lora_C.weight", ("unet", f"{Q}.lora_C.weight", None)),
    ],
)
def test_a_name_tells_network_layer_and_role(key, told):
    assert split_key(key, "unet") == told


def test_what_a_wrapper_put_before_a_name_is_seen_and_what_peft_puts_there_is_usual():
    keys = ["unet._orig_mod.a", "module.a", "policy.unet.a", "lora_unet__orig_mod_a", "lora_unet_module_a"]
    assert all(is_wrapped(key) for key in keys)
    assert not is_wrapped(f"base_model.model.{Q}.lora_A.weight")


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (".hada_w1_a", "LoHa"),
        (".lokr_w1", "LoKr"),
        (".oft_blocks", "OFT"),
        (".lora_mid.weight", "Tucker decompositions"),
        (".diff_b", "full differences"),
        (".w_norm", "trained norms"),
        (".lora_B.default.bias", "biases"),
        (".base_layer.weight", "weights of the base"),
        (".lora_up.weight", None),
        (".weight", None),
    ],
)
def test_other_kinds_of_adapters_are_known_by_name(ending, told):
    assert guess_kind(f"lora_unet_{UNDERSCORED}{ending}") == told
    assert guess_kind(f"diffusion_model.{Q}{ending}") == told
    assert guess_kind("bundle_emb.tok.string_to_param.*") == "embeddings of new tokens"


@pytest.mark.parametrize("made", [unet, unet_xl])
def test_original_names_are_those_of_the_original_layout(made):
    network = made()
    found = original_names(layer_shapes(network))
    assert found == {n: unet_name(f"{n}.weight", 1).removesuffix(".weight") for n in layer_shapes(network)}


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", f"{Q.replace('blocks.0', 'blocks.1', 1)}"),
        ("input_blocks_7_0_emb_layers_1", "down_blocks.2.resnets.0.time_emb_proj"),
        ("input_blocks_8_1_proj_in", "down_blocks.2.attentions.1.proj_in"),
        ("middle_block_1_transformer_blocks_9_ff_net_2", "mid_block.attentions.0.transformer_blocks.9.ff.net.2"),
        ("middle_block_2_in_layers_2", "mid_block.resnets.1.conv1"),
        ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_1_proj_out", "up_blocks.1.attentions.2.proj_out"),
        ("output_blocks_8_0_skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("label_emb_0_2", "add_embedding.linear_2"),
        ("out_2", "conv_out"),
    ],
)
def test_the_layers_of_sdxl_are_found_by_the_names_of_its_first_release(sdxl, published, ours):
    assert sdxl[published] == ours


@pytest.fixture(scope="module")
def sdxl() -> dict[str, str]:
    with torch.device("meta"):
        network = UNet2DConditionModel(
            block_out_channels=(8, 16, 32),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(2, 2, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=32,
        )
    return layer_names(layer_shapes(network))


@pytest.mark.parametrize("made", [unet, unet_xl])
def test_no_two_layers_of_a_network_share_a_name(made):
    shapes = layer_shapes(made())
    names = layer_names(shapes)
    originals = original_names(shapes)
    for name in shapes:
        aliases = {name, originals[name], name.replace(".", "_"), originals[name].replace(".", "_")}
        assert {names[alias] for alias in aliases} == {name}


def test_text_encoders_are_found_with_and_without_the_name_that_clip_has_lost():
    pipe = pipeline_xl()
    layer = "encoder.layers.0.self_attn"
    for network, own in ((pipeline().text_encoder, ""), (pipe.text_encoder_2, "text_model.")):
        names = layer_names(layer_shapes(network))
        for written in (f"{layer}.q_proj", f"text_model.{layer}.q_proj", f"text_model.{layer}.to_q"):
            assert names[written] == names[written.replace(".", "_")] == f"{own}{layer}.q_proj"
        assert names[f"text_model.{layer}.to_out"] == f"{own}{layer}.out_proj"
