import pytest
import torch
from tiny import moved, trained
from tiny_text import language_model, saved_language_model, token_batch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from diffpo.refusal import Refusal
from diffpo.text.adapters import TextLoRA
from diffpo.text.loading import CausalLM, Quantization, load_base, load_tuned
from diffpo.text.sequences import token_logps


@pytest.fixture
def base(tmp_path):
    return saved_language_model(tmp_path / "base")


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2)])
def test_what_is_saved_is_what_transformers_loads(base, tmp_path, adapter):
    config, batch = CausalLM(base, adapter=adapter), token_batch()
    model = config.load()
    trained(model.network)
    model.save(tmp_path / "out")
    expected = token_logps(model.network, batch)
    assert torch.allclose(token_logps(load_tuned(config, tmp_path / "out").network, batch), expected, atol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(token_logps(plain, batch), expected, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "</s>"


def test_what_an_objective_attaches_is_not_saved(base, tmp_path):
    model = CausalLM(base).load()
    model.network.add_module("verdict", nn.Linear(16, 1))
    model.save(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1]
    assert not plain["unexpected_keys"]


def test_a_reference_of_full_tuning_stays_where_the_policy_began(base):
    model, batch = CausalLM(base).load(), token_batch()
    reference = model.reference()
    moved(model.network)
    assert torch.equal(reference(lambda network: token_logps(network, batch)), token_logps(language_model(), batch))


def test_the_base_has_no_dropout(base, tmp_path):
    small = GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "gpt")
    CausalLM(base).tokenizing().tokenizer.save_pretrained(tmp_path / "gpt")
    network, batch = CausalLM(str(tmp_path / "gpt")).load().network, token_batch()
    assert network.training
    assert torch.equal(token_logps(network, batch), token_logps(network, batch))


def test_checkpointing_activations_changes_no_gradient(base):
    batch, gradients = token_batch(), []
    for recompute in (False, True):
        network = CausalLM(base, gradient_checkpointing=recompute).load().network
        token_logps(network, batch).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_template_of_ones_own_replaces_the_tokenizer_s(base):
    tokenizer = CausalLM(base, chat_template="{{ 'x' }}").tokenizing().tokenizer
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "x"


def test_quantized_weights_need_an_adapter_and_bitsandbytes(base, monkeypatch):
    with pytest.raises(Refusal, match="Quantized weights cannot be trained; set base.adapter"):
        CausalLM(base, quantization=Quantization())
    monkeypatch.setattr("diffpo.text.loading.find_spec", lambda name: None)
    with pytest.raises(Refusal, match="needs bitsandbytes, which is not installed"):
        CausalLM(base, adapter=TextLoRA(), quantization=Quantization(8)).load()


def test_what_does_not_fit_is_refused_before_a_run(base):
    model, batch = CausalLM(base).load(), token_batch()
    model.require_fits(batch, longest=64)
    with pytest.raises(Refusal, match="data.max_length 65 is more than the 64 that"):
        model.require_fits(batch, longest=65)
    with pytest.raises(Refusal, match="gives token 48, the network has 48"):
        model.require_fits(token_batch_of(48), longest=64)


def token_batch_of(token: int):
    batch = token_batch()
    batch.ids[0, 0, 0] = token
    return batch


def test_a_missing_padding_token_is_reported(base):
    model = CausalLM(base).load()
    assert model.report() == ""
    model.tokenizing.tokenizer.pad_token = None
    assert "no token for padding" in model.report()


def test_a_folder_without_a_language_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(Refusal, match="does not hold a tokenizer that can be read"):
        CausalLM(str(tmp_path)).tokenizing()


def test_an_adapter_s_base_can_be_generated_with(base):
    assert not load_base(CausalLM(base, adapter=TextLoRA())).network.training
