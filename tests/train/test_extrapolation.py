import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import log_softmax

from diffpo.core.refusal import Refusal
from diffpo.train.extrapolation import Extrapolated, extrapolate, run_accelerated

PLAIN = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.1]], dtype=torch.bfloat16), "n": torch.tensor([3])}
BEFORE = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor([[0.1]], dtype=torch.bfloat16), "n": torch.tensor([2])}


def test_a_number_by_hand_and_counters_stay():
    """1 + 0.3 (1 - 0), 2 + 0.3 (2 - 4)."""
    after = Extrapolated(PLAIN, BEFORE, 0.3)
    torch.testing.assert_close(after["a"], torch.tensor([1.3, 1.4]))
    assert torch.equal(after["b"], PLAIN["b"])
    assert torch.equal(after["n"], PLAIN["n"])


def test_alpha_zero_and_a_round_that_learned_nothing_change_no_bit():
    theta = {"w": torch.randn(100, generator=torch.Generator().manual_seed(0))}
    other = {"w": torch.randn(100, generator=torch.Generator().manual_seed(1))}
    assert torch.equal(Extrapolated(theta, other, 0.0)["w"], theta["w"])
    assert torch.equal(Extrapolated(theta, theta, 0.7)["w"], theta["w"])


def test_differences_that_a_small_type_would_lose_are_kept_in_fp32():
    one, before = torch.ones(1, dtype=torch.bfloat16), torch.tensor([1 - 2**-8], dtype=torch.bfloat16)
    assert Extrapolated({"w": one}, {"w": before}, 0.25)["w"] == 1
    assert Extrapolated({"w": one}, {"w": before}, 0.25, torch.float32)["w"] == 1 + 2**-10


def test_on_a_table_of_logits_it_is_the_papers_policy():
    """pi proportional to pi_plain (pi_plain / pi_before)^alpha."""
    rng = torch.Generator().manual_seed(0)
    plain, before = torch.randn(2, 3, 5, generator=rng)
    policy, earlier = log_softmax(plain, -1), log_softmax(before, -1)
    by_policies = log_softmax(policy + 0.4 * (policy - earlier), -1)
    by_weights = Extrapolated({"w": plain}, {"w": before}, 0.4)["w"]
    torch.testing.assert_close(log_softmax(by_weights, -1), by_policies)


def rounds(alpha: float, n: int = 3) -> tuple[list[float], float]:
    """Starts and result when each round adds 1 to its start."""
    starts = []

    def solve(start, t):
        starts.append(float(start["w"]))
        return {"w": start["w"] + 1}

    return starts, float(run_accelerated({"w": torch.zeros(())}, solve, n, alpha)["w"])


def test_momentum_is_of_plain_weights_and_the_last_round_is_not_extrapolated():
    """Plain 1; start 1 + 0.5 (1 - 0) = 1.5, plain 2.5; start 2.5 + 0.5 (2.5 - 1) = 3.25, plain 4.25."""
    assert rounds(0.5) == ([0.0, 1.5, 3.25], 4.25)
    assert rounds(0.0) == ([0.0, 1.0, 2.0], 3.0)


@pytest.fixture
def folders(tmp_path):
    for name, weights in (("plain", PLAIN), ("before", BEFORE)):
        (tmp_path / name).mkdir()
        save_file({"a": weights["a"]}, tmp_path / name / "model-00001-of-00002.safetensors", {"format": "pt"})
        save_file({n: weights[n] for n in "bn"}, tmp_path / name / "model-00002-of-00002.safetensors")
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "plain" / "checkpoint-000002").mkdir()
    return tmp_path


def test_a_folder_comes_out_with_other_weights_in_the_same_files(folders):
    tensors, moved = extrapolate(folders / "plain", folders / "before", folders / "out", 0.3)
    assert tensors == 3
    assert moved == pytest.approx(((1 + 4 + 1) / (1 + 4 + 0.01 + 9)) ** 0.5, rel=1e-3)
    names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(file.name for file in (folders / "out").iterdir()) == names
    assert (folders / "out" / "config.json").read_text() == "plain"
    torch.testing.assert_close(load_file(folders / "out" / names[1])["a"], torch.tensor([1.3, 1.4]))
    with safe_open(folders / "out" / names[1], "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_alpha_zero_gives_the_files_back(folders):
    extrapolate(folders / "plain", folders / "before", folders / "out", 0.0)
    for file in (folders / "plain").glob("*.safetensors"):
        assert (folders / "out" / file.name).read_bytes() == file.read_bytes()


def test_what_does_not_fit_is_refused_before_anything_is_written(folders):
    save_file({"x.lora_A.weight": torch.ones(1)}, folders / "lora.safetensors")
    save_file({"a": torch.ones(3)}, folders / "before" / "model-00001-of-00002.safetensors")
    before = sorted(folders.iterdir())
    for plain, other, message in (
        ("plain", "before", r"the round before is for another architecture: its a is \(3,\), the base's \(2,\)"),
        ("plain", "plain", "is given as the last round and as the one before; name two"),
        ("plain", "nowhere", "There is no .*nowhere, which was named as weights"),
        (".", "before", "holds a LoRA; merge it into its base first"),
    ):
        with pytest.raises(Refusal, match=message):
            extrapolate(folders / plain, folders / other, folders / "out", 0.3)
    with pytest.raises(Refusal, match="is not empty and is not overwritten"):
        extrapolate(folders / "plain", folders / "before", folders / "plain", 0.3)
    assert sorted(folders.iterdir()) == before
