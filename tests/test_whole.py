import pytest

from diffpo.refusal import Refusal
from diffpo.whole import match_weights

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


def test_a_spare_weight_may_be_there_or_not():
    wanted = {"down.bias": "down.bias"}
    assert match({"down.bias": (2,)}, spare=["down.weight"]) == wanted
    assert match(NET, spare=["down.weight"]) == {name: name for name in NET}
    assert match(NET | {"position_ids": (1, 9)}, spare=["position_ids"]) == {name: name for name in NET}
