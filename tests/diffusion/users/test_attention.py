"""The branch in the network. Its training, files and switch are in test_user_branch.py."""

import copy
import logging
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import WIDTH, alike, image_batch, moved, pipeline, unet, unet_xl

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.attention import ATTENTION
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.users.attention import (
    FILE,
    UserCrossAttention,
    cross_attentions,
    load_user_attention,
    user_input,
)
from diffpo.diffusion.users.branch import UserBranch

TOKENS, FEATURES = 3, 6
BRANCH = UserBranch(TOKENS, FEATURES, rank=2)
rng = torch.Generator().manual_seed(7)
ALICE, BOB, CAROL = torch.randn(3, TOKENS, FEATURES, generator=rng)
NOBODY = torch.zeros(TOKENS, FEATURES)


def told(network, *users: torch.Tensor) -> torch.Tensor:
    """The answers for one noisy picture and prompt each, for these users; for none of them without `users`."""
    raw, n = image_batch(), len(users) or 3
    states = raw.cond.states["prompt"][0].repeat(1, 1, network.config.cross_attention_dim // WIDTH)
    kwargs = {"encoder_hidden_states": states[:1].expand(n, -1, -1)}
    if network.config.addition_embed_type:
        kwargs["added_cond_kwargs"] = {"text_embeds": torch.ones(n, 2 * WIDTH), "time_ids": torch.ones(n, 6)}
    if users:
        kwargs["cross_attention_kwargs"] = {"user_embeds": torch.stack(users)}
    with torch.no_grad():
        return network(raw.latents[0, :1].expand(n, -1, -1, -1), torch.tensor(500), **kwargs).sample


def personal(network=None, by: float = 0.3):
    """A network with a trained branch, all weights changed."""
    network = network or unet()
    BRANCH.attach(network)
    return moved(network, by)


@pytest.mark.parametrize("make", [unet, unet_xl])
def test_the_base_is_unchanged_at_the_start_whoever_the_user_is(make):
    before = told(make())
    network = make()
    BRANCH.attach(network)
    assert alike(told(network, ALICE, BOB, NOBODY), before)
    assert alike(told(network), before)


@pytest.mark.parametrize("make", [unet, unet_xl])
def test_tokens_of_zeros_are_nobody_for_any_weights_and_beside_users(make):
    network = personal(make())
    nobody = told(network)
    assert alike(told(network, NOBODY, NOBODY, NOBODY), nobody)
    mixed = told(network, ALICE, NOBODY, BOB)
    assert alike(mixed[1], nobody[1])
    assert not torch.allclose(mixed[0], nobody[0], atol=1e-3)
    assert not torch.allclose(mixed[0], mixed[2], atol=1e-3)


def test_a_mixture_of_two_users_is_either_of_them_at_its_ends():
    network = personal()
    ends = [a * ALICE + (1 - a) * BOB for a in (1.0, 0.0, 0.5)]
    alice, bob, between = told(network, *ends)
    assert alike(torch.stack([alice, bob]), told(network, ALICE, BOB, CAROL)[:2])
    assert not torch.allclose(between, alice, atol=1e-3)


def test_the_size_of_a_token_does_not_matter():
    network = personal()
    torch.testing.assert_close(told(network, 1e5 * ALICE + 3.0, BOB), told(network, ALICE, BOB), rtol=1e-4, atol=1e-4)


def test_users_are_answered_as_if_alone():
    network = personal()
    together = told(network, ALICE, BOB, CAROL)
    torch.testing.assert_close(together, torch.cat([told(network, user) for user in (ALICE, BOB, CAROL)]))


def layer() -> tuple:
    """One cross-attention with a branch, pixels, text and user as its processor gets them."""
    attention = cross_attentions(personal())[0][1]
    pixels, text, user = (torch.randn(2, n, w, generator=rng) for n, w in ((5, 8), (4, WIDTH), (TOKENS, FEATURES)))
    return attention, pixels, text, user


def test_what_user_and_text_say_is_added_before_the_output_projection():
    """Without text values the user's part is left, and what both say less what the text says is linear in it."""
    attention, pixels, text, user = layer()
    attention.to_out[0].bias.data.zero_()
    both, text_alone = attention(pixels, text, ip_hidden_states=user), attention(pixels, text)
    attention.to_v.weight.data.zero_()
    user_alone = attention(pixels, text, ip_hidden_states=user)
    torch.testing.assert_close(both, text_alone + user_alone)
    attention.user_v.weight.data.zero_()
    assert not attention(pixels, text, ip_hidden_states=user).any()


def test_the_users_part_is_attention_over_the_users_tokens():
    attention, pixels, text, user = layer()
    attention.to_v.weight.data.zero_()
    to_q, user_k, user_v = attention.to_q, attention.user_k, attention.user_v
    seen = attention.processor.user_in(user)
    heads = zip(*(x.chunk(attention.heads, -1) for x in (to_q(pixels), user_k(seen), user_v(seen))), strict=True)
    parts = [(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v for q, k, v in heads]
    want = attention.to_out[0](torch.cat(parts, -1))
    torch.testing.assert_close(attention(pixels, text, ip_hidden_states=user), want)


def test_a_mask_of_the_text_leaves_the_user_heard():
    """Bitwise as diffusers' own attention for nobody, and equal to a shorter text for a user."""
    attention, pixels, text, user = layer()
    mask = torch.tensor([[0.0, 0.0, -1e9, -1e9]]).expand(2, 1, -1)
    masked = partial(attention, pixels, text, attention_mask=mask)
    assert alike(masked(ip_hidden_states=torch.zeros_like(user)), masked())
    torch.testing.assert_close(masked(ip_hidden_states=user), attention(pixels, text[:, :2], ip_hidden_states=user))


def test_flash_is_used_for_both_parts_where_it_is_chosen():
    flash, native = unet(), personal()
    ATTENTION["flash"](flash)
    torch.testing.assert_close(told(personal(flash), ALICE, BOB), told(native, ALICE, BOB))
    kernels = [layer.processor.kernel for _, layer in cross_attentions(flash)]
    with kernels[0]():
        assert not torch.backends.cuda.math_sdp_enabled()


def test_self_attention_passes_over_the_user_in_silence(caplog):
    network = personal()
    with caplog.at_level(logging.WARNING):
        told(network, ALICE)
    assert not caplog.records
    hearing = {name for name, it in network.attn_processors.items() if isinstance(it, UserCrossAttention)}
    assert hearing == {name for name in network.attn_processors if "attn2" in name}


def test_a_copy_has_a_branch_of_its_own():
    network = personal()
    twin = copy.deepcopy(network)
    before = told(network, ALICE)
    assert alike(told(twin, ALICE), before)
    moved(network)
    assert alike(told(twin, ALICE), before)
    user_input(twin).on = False
    assert not alike(told(network, ALICE), told(network))


@pytest.mark.parametrize("lora_first", [True, False])
def test_a_lora_before_or_after_leaves_the_branch_as_it_is(lora_first):
    plain, network = unet(), unet()
    if lora_first:
        LoRA(rank=2).attach(network)
        BRANCH.attach(network)
    else:
        BRANCH.attach(network)
        LoRA(rank=2).attach(network)
    assert alike(told(network, ALICE, BOB, NOBODY), told(plain))
    assert not any("user_" in name and "lora" in name for name, _ in network.named_parameters())
    moved(network, 0.3)
    one = told(network, ALICE, BOB, NOBODY)
    assert alike(one[2], told(network)[2])
    network.fuse_lora()
    torch.testing.assert_close(told(network, ALICE, BOB, NOBODY), one, rtol=1e-4, atol=1e-5)
    network.unfuse_lora()
    torch.testing.assert_close(told(network, ALICE, BOB, NOBODY), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        (lambda network: network.set_attention_slice(1), "SlicedAttnProcessor"),
        (lambda network: network.fuse_qkv_projections(), "FusedAttnProcessor2_0"),
        (lambda network: ATTENTION["native"](network), "AttnProcessor2_0"),
    ],
)
def test_a_user_whom_replaced_layers_would_not_hear_is_refused(replace, by):
    network = personal()
    replace(network)
    with pytest.raises(Refusal, match=f"^4 of 4 user attentions were replaced by {by}; load .* anew"):
        told(network, ALICE)


def test_a_saved_network_keeps_its_base_and_loses_the_branch_with_a_warning(tmp_path, caplog):
    network = personal()
    network.save_pretrained(tmp_path)
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING):
        plain = type(network).from_pretrained(tmp_path)
    assert alike(told(plain), told(network))
    assert "user_in" in caplog.text


@pytest.mark.parametrize("users", [(ALICE[:2],), (ALICE[:, :5],)])
def test_embeddings_of_another_encoder_are_refused(users):
    with pytest.raises(Refusal, match=r"user_embeds is .*, the UNet takes \(1, 3, 6\): a row per picture"):
        told(personal(), *users)


def test_a_second_branch_and_attention_of_another_kind_are_refused():
    network = personal()
    with pytest.raises(Refusal, match="The UNet has user attention already; load the base anew"):
        BRANCH.attach(network)
    sliced = unet()
    sliced.set_attention_slice(1)
    with pytest.raises(Refusal, match="cannot stand in for SlicedAttnProcessor; use base.attention native"):
        BRANCH.attach(sliced)


@pytest.fixture
def folder(tmp_path):
    pipe = pipeline()
    personal(pipe.unet)
    BRANCH.save(pipe, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"transformer_layers_per_block": 2}, r"down_.*\.1\.attn2\.user_k\.weight is absent there and \(8, 2\) here"),
        ({"cross_attention_dim": 12}, "cross_attention_dim is 16 there and 12 here"),
    ],
)
def test_a_file_of_another_network_is_refused_by_what_differs_first(folder, other, what):
    with pytest.raises(Refusal, match=f"is of another UNet .of a StableDiffusionPipeline.: {what}; load it"):
        load_user_attention(unet(**other), str(folder))


def test_files_that_hold_no_branch_are_told_in_a_line(tmp_path):
    with pytest.raises(Refusal, match=f"there is no {FILE} in it"):
        load_user_attention(unet(), str(tmp_path))
    save_file({"a": torch.ones(1)}, tmp_path / FILE)
    with pytest.raises(Refusal, match=r"it lacks user_in.weight or the number of tokens"):
        load_user_attention(unet(), str(tmp_path))
    (tmp_path / FILE).write_bytes(b"cut short")
    with pytest.raises(Refusal, match="it is damaged .*; fetch it again"):
        load_user_attention(unet(), str(tmp_path))


def test_a_file_is_loaded_in_the_type_of_the_network(folder):
    network = unet().to(torch.bfloat16)
    load_user_attention(network, str(folder))
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for name, p in network.named_parameters() if "user_" in name)
    with safe_open(folder / FILE, "pt") as file:
        assert file.metadata() == {"tokens": "3", "cross_attention_dim": "16", "pipeline": "StableDiffusionPipeline"}
