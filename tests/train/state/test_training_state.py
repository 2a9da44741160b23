import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from planted import Planted
from tiny_runs import fit_points, scorer, weights
from torch import nn

from diffpo.core.references import Ema
from diffpo.core.refusal import Refusal
from diffpo.storage.digests import name_files
from diffpo.train.state.training_state import TrainingState, read_generators, restore_generators


class Dropped(nn.Module):
    """A network that draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.inner = scorer()

    def forward(self, points):
        return nn.functional.dropout(self.inner(points), 0.5)


def bitsandbytes_adam(parameters):
    adam = pytest.importorskip("bitsandbytes").optim.AdamW8bit
    return adam(parameters, lr=1e-2, min_8bit_size=1)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=1.0, momentum=0.9),
        partial(torch.optim.AdamW, lr=1e-2),
        partial(torch.optim.Adafactor, lr=1e-2),
        bitsandbytes_adam,
    ],
    ids=["sgd", "adamw", "adafactor", "8bit"],
)
def test_a_run_that_is_taken_up_ends_with_the_same_bits(tmp_path, optimizer):
    run = {"optimizer": optimizer, "ema": 0.5, "warmup": 3, "schedule": "cosine"}
    torch.manual_seed(0)
    straight = fit_points(tmp_path / "straight", Dropped(), steps=6, **run)
    torch.manual_seed(0)
    first = Dropped()
    fit_points(tmp_path / "run", first, steps=3, save_every=3, **run)
    torch.manual_seed(99)
    again = Dropped()
    fit_points(tmp_path / "run", again, resume="latest", steps=6, **run)
    assert torch.equal(weights(again), weights(straight))


def test_generators_go_on_where_they_were():
    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item()

    before = read_generators(torch.device("cpu"))
    wanted = drawn()
    assert drawn() != wanted
    restore_generators(before, torch.device("cpu"))
    assert drawn() == wanted


def test_an_optimizer_of_another_launcher_or_version_is_refused(tmp_path):
    network = scorer()
    stepper = Accelerator().prepare(torch.optim.SGD(network.parameters(), lr=1.0))
    TrainingState(Accelerator(), network).save(tmp_path)
    (tmp_path / "optimizer.bin").touch()
    with pytest.raises(Refusal, match="has no optimizer.json: another launcher .FSDP2, or none. or an earlier"):
        TrainingState(Accelerator(), network, network, stepper).load(tmp_path)


class Odd:
    def state_dict(self):
        return {"a": object()}

    def load_state_dict(self, state): ...


def test_a_state_that_cannot_be_stored_is_refused_after_the_rest_is_written(tmp_path):
    state = TrainingState(Accelerator(), scorer(), others={"odd": Odd()})
    with pytest.raises(Refusal, match="state of this run holds a object"):
        state.save(tmp_path)
    assert (tmp_path / "random-00000.json").exists()


class Unstored(Ema):
    def state_dict(self):
        return {"model": object}


def test_it_stops_the_run_at_its_first_checkpoint(tmp_path):
    policy = scorer()
    with pytest.raises(Refusal, match="holds a type, which checkpoints do not store; choose another opt"):
        fit_points(tmp_path, policy, reference=Unstored(policy), steps=2, save_every=1)
    assert not [*tmp_path.glob("checkpoint-*")]


def test_no_file_of_a_checkpoint_runs_code(tmp_path):
    """Also if its digests are those of what was planted, and beside files that accelerate would unpickle."""
    fit_points(tmp_path, steps=1, save_every=1, ema=0.5)
    folder, planted = tmp_path / "checkpoint-000001", pickle.dumps(Planted(tmp_path / "ran"))
    files = [file for file in folder.iterdir() if file.name != "files.json"]
    assert len(files) == 11
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(planted)
        name_files(folder, {"step": 1})
        with pytest.raises(Refusal, match="is damaged"):
            fit_points(tmp_path, resume="latest", steps=2, ema=0.5)
        file.write_bytes(whole)
    for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        (folder / name).write_bytes(planted)
    name_files(folder, {"step": 1})
    fit_points(tmp_path, resume="latest", steps=2, ema=0.5)
    assert not (tmp_path / "ran").exists()
