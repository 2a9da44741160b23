import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as Pictures
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import draws, trained
from tiny_eyes import held
from tiny_speakers import llava
from tiny_text_runs import train_text
from transformers import AutoModelForImageTextToText, AutoProcessor

from diffpo.core.refusal import Refusal
from diffpo.data.pairs import require_suits
from diffpo.data.sampler import ProcessShare
from diffpo.text.data.completions import Segment
from diffpo.text.data.pairs import TextData
from diffpo.text.data.pictures import CorruptedPicture, PictureAnswer, PictureColumns
from diffpo.text.methods.mdpo import MDPO
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.lora import OUTER, TextLoRA, TextWarmLoRA
from diffpo.text.model.vision import VisionLM, cat_padded

TEXT = Value("string")
GRADIENT = Image.linear_gradient("L").convert("RGB")
TEMPLATE = (
    "{% for message in messages %}{{ 'USER :' if message['role'] == 'user' else ' ASSISTANT :' }}"
    "{% for part in message['content'] %} {{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT :{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> VisionLM:
    return VisionLM(str(llava(tmp_path_factory.mktemp("llava"))), chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TextData:
    """Three pictures of two shapes."""
    file = tmp_path_factory.mktemp("data") / "pairs.parquet"
    pictures = [held(GRADIENT.resize(size)).value for size in ((40, 32), (16, 48))]
    columns = {
        "prompt": ["on the <image> left", "circle", "on the right"],
        "chosen": ["a red circle", "a blue", "red"],
        "rejected": ["a blue circle", "a", "blue"],
        "image": [*pictures, pictures[0]],
    }
    features = Features({"image": Pictures(), "prompt": TEXT, "chosen": TEXT, "rejected": TEXT})
    Dataset.from_dict(columns, features=features).to_parquet(file)
    return TextData(PictureColumns(str(file)), [CorruptedPicture()], max_length=64, together=1, workers=0)


@pytest.fixture(scope="module")
def loaded(base):
    return base.load()


def words(tokenizing, ids) -> str:
    return " ".join(tokenizing.tokenizer.convert_ids_to_tokens(ids))


def test_the_question_shows_the_picture_once_and_only_the_answer_is_scored(base, data):
    tokenizing = base.tokenizing()
    pairs = data.open(0, tokenizing)
    batch = pairs.first(1)
    assert words(tokenizing, batch.ids[0, 0][batch.scored[0, 0]]) == "a red circle"
    assert words(tokenizing, batch.ids[1, 0][batch.scored[1, 0]]) == "a blue circle"
    prompt = batch.ids[0, 0][batch.attended[0, 0] & ~batch.scored[0, 0]].tolist()
    kept = words(tokenizing, [token for token in prompt if token != tokenizing.processor.image_token_id])
    assert kept == "USER : on the left ASSISTANT :"
    assert torch.equal(batch.ids[2], batch.ids[0])


def test_three_candidates_bring_three_pictures_of_which_the_third_is_another(base, data):
    batch = data.open(0, base.tokenizing()).first(2)
    assert batch.ids.shape[:2] == (3, 2)
    chosen, rejected, corrupted = batch.inputs["pixel_values"].unflatten(0, (3, 2))
    assert torch.equal(chosen, rejected)
    assert batch.inputs["image_sizes"].shape == (6, 2)
    assert corrupted.shape == chosen.shape
    assert not torch.equal(corrupted, chosen)


def test_a_batch_of_pictures_of_two_shapes_trains(loaded, data):
    pairs = data.open(0, loaded.tokenizing)
    batch = next(iter(pairs.batches(ProcessShare(3, 0))))
    loaded.require_fits(batch, 64)
    require_suits(MDPO(), pairs)
    policy, ready = loaded.prepare(loaded.network, batch, draws(3))
    step = MDPO()(policy, loaded.reference(), ready, draws(3))
    torch.testing.assert_close(step.loss, 3 * torch.tensor(2.0).log())
    step.loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters()}
    assert gradients["model.multi_modal_projector.linear_1.weight"].abs().sum() > 0
    policy.zero_grad()


def test_what_the_batch_says_of_an_answer_does_not_depend_on_the_others(loaded, data):
    pairs = data.open(0, loaded.tokenizing)
    with torch.no_grad():
        alone = token_logps(loaded.network, pairs.first(1)).sum(-1)[:, 0]
        among = token_logps(loaded.network, pairs.first(3)).sum(-1)[:, 0]
    torch.testing.assert_close(alone, among, atol=1e-4, rtol=1e-4)


def test_an_answer_is_cut_and_a_question_with_its_picture_is_not(base, data):
    tokenizing = base.tokenizing()
    candidate = PictureAnswer((Segment("a red circle"),), held(Image.new("RGB", (40, 32))))
    tokens = tokenizing("left", candidate)
    asked = len(tokens.prompt)
    cut = tokens.cut(1, asked + 1)  # of asked + 2 tokens
    assert (len(cut.prompt), len(cut.completion)) == (asked, 2)
    with pytest.raises(Refusal, match=f"A question with its picture takes {asked} tokens of {asked}"):
        tokens.cut(1, asked - 1)


def test_rows_without_pictures_are_told_what_lacks(base):
    with pytest.raises(Refusal, match="It shows no picture; add diffpo.text.CorruptedPicture"):
        base.tokenizing()("left", "red")


def asked(parts) -> list[dict]:
    return [{"role": "user", "content": parts}]


def test_a_question_in_parts_is_the_same_tokens_as_in_one_text(base):
    tokenizing, candidate = (
        base.tokenizing(),
        PictureAnswer((Segment("a red circle"),), held(Image.new("RGB", (40, 32)))),
    )
    plain = tokenizing("on the left", candidate)
    for parts in (
        [{"type": "image"}, {"type": "text", "text": "on the left"}],
        [{"text": "on "}, {"text": "the left"}],
    ):
        tokens = tokenizing(asked(parts), candidate)
        assert (tokens.prompt, tokens.completion) == (plain.prompt, plain.completion)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{"type": "image"}, {"type": "image"}, {"type": "text", "text": "a"}], "shows 2 pictures, and a row has one"),
        ([{"type": "video"}, {"type": "text", "text": "a"}], "message of user has a part of type 'video'"),
        ([{"type": "text", "text": None}], "message of user has a part of type 'text without text'"),
    ],
)
def test_parts_that_are_not_shown_are_refused(base, parts, said):
    with pytest.raises(Refusal, match=said):
        base.tokenizing()(asked(parts), PictureAnswer((Segment("a"),), held(Image.new("RGB", (40, 32)))))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "policy."])
def test_a_base_whose_weights_were_wrapped_is_the_whole_one(base, loaded, tmp_path, wrapper):
    shutil.copytree(base.path, tmp_path / "wrapped")
    file = tmp_path / "wrapped" / "model.safetensors"
    state = load_file(file)
    save_file({wrapper + name: tensor for name, tensor in state.items()}, file, {"format": "pt"})
    found, expected = VisionLM(str(tmp_path / "wrapped")).load(), loaded.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.network.state_dict().items())
    found.save(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == state.keys()
    file.unlink()
    save_file({name: state[name] for name in sorted(state)[1:]}, file, {"format": "pt"})
    with pytest.raises(Refusal, match="does not hold a vision-language model: 1 of its weights do not fit"):
        VisionLM(str(tmp_path / "wrapped")).load()


def test_a_lora_whose_names_are_of_an_earlier_release_of_transformers_is_the_same(base, tmp_path):
    """As before transformers 4.52: language_model.model.layers, not model.language_model.layers."""
    model = replace(base, adapter=TextLoRA(rank=2, targets=["up_proj", "linear_1"])).load()
    trained(model.network)
    model.save(tmp_path)
    (tmp_path / "files.json").unlink()
    file = tmp_path / "adapter_model.safetensors"
    earlier = ("model.language_model.", "language_model.model."), ("model.multi_modal", "multi_modal")
    state = load_file(file)
    for now, then in earlier:
        state = {name.replace(f"{OUTER}{now}", f"{OUTER}{then}"): tensor for name, tensor in state.items()}
    save_file(state, file)
    warm = replace(base, adapter=TextWarmLoRA(str(tmp_path))).load()
    known = dict(model.network.named_parameters())
    moved = {name: p for name, p in warm.network.named_parameters() if p.requires_grad}
    assert len(moved) == len(state) == 4
    assert all(torch.equal(p, known[name]) for name, p in moved.items())


def test_tensors_are_joined_and_filled_up_with_zeros():
    found = cat_padded([torch.ones(1, 1, 2), torch.ones(2, 2, 1)])
    assert found.tolist() == [[[1, 1], [0, 0]], [[1, 0], [1, 0]], [[1, 0], [1, 0]]]


def test_no_part_of_the_base_has_dropout(tmp_path: Path, data):
    folder = llava(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        config[part]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    loaded = VisionLM(str(folder), chat_template=TEMPLATE).load()
    batch = data.open(0, loaded.tokenizing).first(2)
    assert loaded.network.training
    assert torch.equal(token_logps(loaded.network, batch), token_logps(loaded.network, batch))


def test_a_run_of_mdpo_begins_at_three_times_log_two_and_its_second_step_pays_less(base, data, tmp_path: Path):
    """Both steps see all three rows."""
    sizes = {"steps": 2, "batch_size": 3, "per_device_batch_size": 3}
    train_text(tmp_path, tmp_path / "out", objective=MDPO(), base=base, data=data, **sizes)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    first, second = [line["loss"] for line in lines if "loss" in line]
    assert first == pytest.approx(3 * math.log(2), abs=1e-5)
    assert second < first
    assert AutoProcessor.from_pretrained(tmp_path / "out").chat_template == TEMPLATE


def test_what_was_trained_is_loaded_with_its_processor(loaded, tmp_path: Path):
    loaded.save(tmp_path)
    network, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(network.lm_head.weight, loaded.network.lm_head.weight)
    assert processor.chat_template == loaded.tokenizing.processor.chat_template
