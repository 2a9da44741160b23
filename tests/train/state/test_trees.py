import pickle
import random
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from planted import Planted
from safetensors import SafetensorError
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.train.state import trees
from diffpo.train.state.trees import read_tree, write_tree

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64, torch.bool]
LEAVES = [None, True, False, 0, -7, 2**70, 0.1, 1e-300, float("inf"), -0.0, "", "é\n\x00", "tensor", "mapping"]


def random_tree(rng: random.Random, depth: int = 3):
    kind = rng.choice(["leaf", "tensor"] if not depth else ["leaf", "tensor", "list", "tuple", "mapping"])
    if kind == "leaf":
        return rng.choice(LEAVES)
    if kind == "tensor":
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(rng.randrange(99)))
        tensor = (100 * drawn).to(rng.choice(DTYPES))
        return tensor.transpose(0, 1) if len(shape) > 1 else tensor
    parts = [random_tree(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    if kind == "mapping":
        keys = rng.sample([0, 1, -5, "a", "tensor", "0", 2.5, None, (1, "b")], len(parts))
        return dict(zip(keys, parts, strict=True))
    return tuple(parts) if kind == "tuple" else parts


def same(one, other) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@pytest.mark.parametrize("seed", range(50))
def test_what_is_written_is_read(tmp_path, seed):
    tree = random_tree(random.Random(seed))
    write_tree(tmp_path, "x", tree)
    assert same(tree, read_tree(tmp_path, "x"))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adafactor(p),
        lambda p: torch.optim.RMSprop(p, centered=True),
        lambda p: torch.optim.Adagrad(p),
        lambda p: torch.optim.NAdam([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}]),
        lambda p: torch.optim.Rprop(p),
    ],
)
def test_the_state_of_an_optimizer_goes_on_with_the_same_bits(tmp_path, optimizer):
    def parameters():
        return [torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)), torch.nn.Parameter(torch.ones(3))]

    def steps(stepper, some, n):
        for _ in range(n):
            sum((p**3).sum() for p in some).backward()
            stepper.step()
            stepper.zero_grad()

    straight, first = parameters(), parameters()
    steps(optimizer(straight), straight, 5)
    stepper = optimizer(first)
    steps(stepper, first, 2)
    write_tree(tmp_path, "optimizer", stepper.state_dict())
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    stepper = optimizer(second)
    stepper.load_state_dict(read_tree(tmp_path, "optimizer"))
    steps(stepper, second, 3)
    assert all(map(torch.equal, straight, second))


def test_a_tensor_in_several_places_is_stored_once_and_is_one_again(tmp_path):
    shared, slices = torch.ones(1000), torch.arange(6.0)
    write_tree(tmp_path, "x", {"a": shared, "b": [shared, shared.clone()], "c": (slices[:3], slices[3:])})
    found = read_tree(tmp_path, "x")
    assert found["a"] is found["b"][0]
    assert found["a"] is not found["b"][1]
    assert found["c"][1].tolist() == [3.0, 4.0, 5.0]
    assert 8000 < (tmp_path / "x-0.safetensors").stat().st_size < 9000


def test_many_tensors_go_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "PIECE", 100)
    tree = [torch.full((10,), float(n)) for n in range(7)]
    write_tree(tmp_path, "x", tree)
    assert sorted(file.name for file in tmp_path.iterdir()) == [*(f"x-{n}.safetensors" for n in range(4)), "x.json"]
    assert same(tree, read_tree(tmp_path, "x"))
    (tmp_path / "x-3.safetensors").unlink()
    with pytest.raises(OSError, match="x-3"):
        read_tree(tmp_path, "x")


@pytest.mark.parametrize("odd", [Path("a"), {1, 2}, b"x", torch.float32, object(), 1j, print])
def test_what_is_no_plain_value_is_refused(tmp_path, odd):
    with pytest.raises(Refusal, match=f"state of this run holds a {type(odd).__name__}, which checkpoints do not sto"):
        write_tree(tmp_path, "x", {"a": [1, OrderedDict(b=odd)]})


def test_nothing_in_a_file_is_run(tmp_path):
    write_tree(tmp_path, "x", {"a": torch.ones(2)})
    planted = pickle.dumps(Planted(tmp_path / "ran"))
    for name in ("x.json", "x-0.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(planted)
        with pytest.raises((SafetensorError, ValueError)):
            read_tree(tmp_path, "x")
        (tmp_path / name).write_bytes(whole)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("seed", range(30))
def test_a_json_that_was_changed_is_an_error_of_these_kinds_or_plain_values(tmp_path, seed):
    rng = random.Random(seed)
    write_tree(tmp_path, "x", random_tree(rng))
    text = bytearray((tmp_path / "x.json").read_bytes())
    for _ in range(3):
        text[rng.randrange(len(text))] = rng.randrange(256)
    (tmp_path / "x.json").write_bytes(text)
    with suppress(OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError):
        read_tree(tmp_path, "x")
