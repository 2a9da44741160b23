from pickle import UnpicklingError

import pytest
import torch
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.storage.whole import UNWRAPPING, fill_network, load_whole, match_weights, require_finite, unwrap_name

NET = {"down.weight": (2, 3), "down.bias": (2,)}


def match(found, **options):
    return match_weights(found, NET, "x.safetensors", "a net", **options)


def test_names_of_the_network_stand_as_they_are():
    assert match(NET) == {name: name for name in NET}


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "policy.", "module._orig_mod.", "_orig_mod.module."])
def test_what_a_wrapper_put_before_is_taken_off_and_told(wrapper, caplog):
    assert match({wrapper + name: shape for name, shape in NET.items()}) == {wrapper + name: name for name in NET}
    assert caplog.messages == [
        f"x.safetensors: 2 names of weights lost what a wrapper had put into them, e.g. {wrapper}down.weight."
    ]


def test_a_part_that_was_compiled_alone_counts():
    assert match({"down._orig_mod.weight": (2, 3), "down.bias": (2,)})["down._orig_mod.weight"] == "down.weight"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"down.weight": (2, 3)}, r"1 of its .* the first is down.bias, which has shape none and should have \(2,\)"),
        (NET | {"up": (1,)}, r"1 of its .* the first is up, which has shape \(1,\) and should have none"),
        (NET | {"down.bias": (4,)}, r"the first is down.bias, which has shape \(4,\) and should have \(2,\)"),
        (NET | {"module.down.bias": (2,)}, "the first is down.bias"),
        (
            {f"theirs.{name}": shape for name, shape in NET.items()},
            "4 of its weights do not fit, the first is down.bias",
        ),
    ],
)
def test_everything_else_is_refused_and_the_first_name_told(found, said):
    with pytest.raises(Refusal, match=f"x.safetensors does not hold a net: .*{said}"):
        match(found)


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        ("base_model.model.{}", r"merge its adapters first \(peft's merge_and_unload\)\.$"),
        ("{}.base_layer.weight", r"merge_and_unload\)\.$"),
        ("{}.lora_A.weight", r"merge_and_unload\)\.$"),
        ("theirs.{}", r"name the file of this network\.$"),
    ],
)
def test_a_file_with_adapters_beside_the_weights_is_to_be_merged(names, remedy):
    with pytest.raises(Refusal, match=remedy):
        match({names.format(name): shape for name, shape in NET.items()})


def test_a_spare_weight_may_be_there_or_not():
    wanted = {"down.bias": "down.bias"}
    assert match({"down.bias": (2,)}, spare=["down.weight"]) == wanted
    assert match(NET, spare=["down.weight"]) == {name: name for name in NET}
    assert match(NET | {"position_ids": (1, 9)}, spare=["position_ids"]) == {name: name for name in NET}


WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def test_a_shape_that_is_not_known_fits_nothing():
    with pytest.raises(Refusal, match=r"first is down.bias, which has shape unknown and should have \(2,\)"):
        match(NET | {"down.bias": None})


def test_a_network_gets_its_weights_under_their_published_names():
    network = nn.Linear(3, 2)
    fill_network(network, {f"old.{name}": tensor for name, tensor in WEIGHTS.items()}, "x", "a net", "old.{}".format)
    assert torch.equal(network(torch.ones(1, 3)), torch.full((1, 2), 3.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.ones(2, 4)}, r"first is weight, which has shape \(2, 4\) and should have \(2, 3\)"),
        ({"more": torch.ones(1)}, r"first is more, which has shape \(1,\) and should have none"),
        ({"bias": None}, r"first is bias, which has shape none and should have \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(changed, message):
    tensors = {name: tensor for name, tensor in (WEIGHTS | changed).items() if tensor is not None}
    with pytest.raises(Refusal, match=f"x does not hold a net: 1 of its weights do not fit, the {message}"):
        fill_network(nn.Linear(3, 2), tensors, "x", "a net")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_and_named(broken):
    with pytest.raises(Refusal, match="x holds a net that is broken: bias is not finite"):
        fill_network(nn.Linear(3, 2), WEIGHTS | {"bias": torch.tensor([0.0, broken])}, "x", "a net")


def test_large_half_precision_weights_are_finite():
    fill_network(nn.Linear(3, 2), {name: torch.full_like(x, 6e4).half() for name, x in WEIGHTS.items()}, "x", "a net")


def loading(found):
    """What a library's `from_pretrained` does with such a file, and how often it was asked."""
    asked = []

    def load(output_loading_info, ignore_mismatched_sizes, key_mapping=None):
        asked.append(key_mapping)
        names = {unwrap_name(name) if key_mapping else name: shape for name, shape in found.items()}
        network = nn.Linear(3, 2)
        own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        fitting = names.keys() & own.keys()
        return network, {
            "missing_keys": own.keys() - names.keys(),
            "unexpected_keys": names.keys() - own.keys(),
            "mismatched_keys": [(n, names[n], own[n]) for n in fitting if names[n] != own[n]],
        }

    return load, asked


LINEAR = {"weight": (2, 3), "bias": (2,)}


def test_a_whole_file_is_loaded_once(caplog):
    load, asked = loading(LINEAR)
    assert isinstance(load_whole(load, "x", "a net"), nn.Linear)
    assert asked == [None]
    assert not caplog.messages


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "policy.", "state_dict.", "module._orig_mod."])
def test_a_wrapped_file_is_loaded_again_without_its_wrappers_and_told(wrapper, caplog):
    load, asked = loading({wrapper + name: shape for name, shape in LINEAR.items()})
    load_whole(load, "x", "a net")
    assert asked == [None, UNWRAPPING]
    assert caplog.messages == [f"x: 2 names of weights lost what a wrapper had put into them, e.g. {wrapper}bias."]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"weight": (2, 3)}, r"1 of its .* bias, which has shape none and should have \(2,\)"),
        (LINEAR | {"weight": (2, 4)}, r"weight, which has shape \(2, 4\) and should have \(2, 3\)"),
        (LINEAR | {"up": (1,)}, "up, which has shape unknown and should have none"),
        ({f"theirs.{name}": shape for name, shape in LINEAR.items()}, "4 of its weights do not fit"),
        ({"module.weight": (2, 3)}, "bias, which has shape none"),
    ],
)
def test_what_a_library_would_leave_at_random_is_refused(found, said, caplog):
    with pytest.raises(Refusal, match=f"x does not hold a net: .*{said}"):
        load_whole(loading(found)[0], "x", "a net")
    assert not caplog.messages


def test_a_file_may_hold_other_networks_too_but_not_more_layers_of_this_one():
    deep = nn.Sequential(nn.Linear(3, 2))
    report = {"missing_keys": [], "mismatched_keys": [], "unexpected_keys": ["tower.weight"]}
    assert load_whole(lambda **_: (deep, report), "x", "a net", others=True) is deep
    report["unexpected_keys"] = ["tower.weight", "1.weight"]
    with pytest.raises(Refusal, match="1 of its weights do not fit, the first is 1.weight"):
        load_whole(lambda **_: (deep, report), "x", "a net", others=True)


@pytest.mark.parametrize(
    "error", [RuntimeError("PytorchStreamReader failed reading zip archive"), EOFError(), UnpicklingError("x")]
)
def test_a_damaged_file_is_one_line(tmp_path, error):
    def load(**_):
        raise error

    with pytest.raises(Refusal, match="that can be read: it is damaged, or holds more than tensors .or a git-lfs"):
        load_whole(load, str(tmp_path), "a net")


def test_weights_that_torchao_stores_in_few_bits_are_left_out():
    class Few(torch.Tensor):
        __module__ = "torchao.quantization"

    require_finite([("a", torch.full((2,), torch.nan).as_subclass(Few))], "somewhere", "a network")
