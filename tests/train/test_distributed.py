import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from several_processes import KINDS, double, first_gradient, relay, results, share, trainable
from started import HELPERS, launched, started
from tiny import unet
from tiny_runs import diffusion_files, fit_diffusion, stored, together, weights
from two_processes import SETTINGS

from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.storage.lock import LOCK


@pytest.fixture(scope="module", params=[started, pytest.param(launched, marks=pytest.mark.release)])
def root(request, tmp_path_factory):
    """What `two_processes.py` wrote, beside the same run in one process that accumulates twice."""
    root = diffusion_files(tmp_path_factory.mktemp("distributed"))
    fit_diffusion(root, root / "accumulated", **SETTINGS)
    shutil.copytree(root / "accumulated", root / "one", ignore=shutil.ignore_patterns("*-000003", "*-000004"))
    assert request.param(HELPERS / "two_processes.py", root, processes=2) == [0, 0]
    return root


@pytest.fixture(scope="module")
def ranks(root):
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_both_processes_end_with_the_same_weights(root):
    first, second = (load_file(root / f"rank{rank}.safetensors")["final"] for rank in (0, 1))
    assert torch.equal(first, second)


def test_processes_see_different_rows_and_noise_and_together_every_row_once(ranks):
    visits = [(epoch, row) for rank in ranks for epoch, row, _ in rank["seen"]]
    assert len(visits) == len(set(visits)) == 16
    assert sorted(row for epoch, row in visits if epoch == 0) == list(range(6))
    noises = [tuple(noise) for rank in ranks for *_, noise in rank["seen"]]
    assert len(set(noises)) == 16


@pytest.mark.parametrize("step", [1, 4])
def test_two_processes_are_one_that_accumulates_twice_bitwise(root, step):
    assert torch.equal(stored(root / "two", step), stored(root / "accumulated", step))


def test_two_processes_are_one_with_twice_the_batch(root):
    fit_diffusion(root, root / "whole", **SETTINGS | {"per_device_batch_size": 4, "steps": 1})
    two, whole, start = stored(root / "two", 1), stored(root / "whole", 1), weights(unet())
    assert (two - whole).norm() < 1e-5 * (whole - start).norm()  # fp32; gradients of the two sides nearly cancel


def test_metrics_are_means_over_both_processes(root, ranks, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: logged.append(values))
    fit_diffusion(root, tmp_path, **SETTINGS | {"save_every": None})
    for one, two in zip(logged, ranks[0]["logged"], strict=True):
        assert one.keys() == two.keys()
        assert {k: v for k, v in two.items() if k != "pairs_per_second"} == pytest.approx(
            {k: v for k, v in one.items() if k != "pairs_per_second"}, rel=1e-5, abs=1e-7
        )


def test_one_process_resumes_what_two_have_begun(root, tmp_path):
    checkpoint = root / "two" / "checkpoint-000002"
    settings = SETTINGS | {"save_every": None}
    model, _ = fit_diffusion(root, tmp_path, resume=str(checkpoint), **settings)
    assert torch.equal(weights(model.unet), stored(root / "two", 4))


def test_two_processes_resume_what_one_has_begun(root):
    for rank in (0, 1):
        final = load_file(root / f"resumed{rank}.safetensors")["final"]
        assert torch.equal(final, stored(root / "accumulated", 4))


def test_where_one_process_cannot_save_both_stop_and_nothing_half_written_stays(root):
    first, second = json.loads((root / "failed" / "said.json").read_text())
    assert first.startswith("Checkpoint 2 could not be written (on another process; ")
    assert second.startswith("Checkpoint 2 could not be written (OSError: [Errno 28] No space left on device; ")
    left = sorted(path.name for path in (root / "failed").iterdir())
    assert left == [LOCK, "config.yaml", "metrics.jsonl", "said.json"]


@pytest.fixture(scope="module", params=[6, pytest.param(20, marks=pytest.mark.release)])
def steps(request):
    return request.param


@pytest.fixture(scope="module")
def shared(steps, tmp_path_factory):
    """What `several_processes.py` wrote: four processes, then two that also go on with what the four began."""
    root = diffusion_files(tmp_path_factory.mktemp("shared"))
    assert together(4, share, root, steps) == [0] * 4
    assert together(2, share, root, steps) == [0] * 2
    results(root, "whole", 4, steps)
    return root


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_after_many_steps_of_sgd_the_weights_are_those_of_one_process(shared, processes, kind):
    one, several = (load_file(shared / f"{name}.safetensors") for name in ("whole", f"processes{processes}"))
    assert (several[f"weights/{kind}"] - one[f"weights/{kind}"]).abs().max() < 1e-6


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_gradient_of_adamw_is_that_of_one_process_accumulated_or_not(shared, processes, kind):
    """In double precision; in single precision only to 1e-5, because the gradients of both sides nearly cancel."""
    one, several = (load_file(shared / f"{name}.safetensors") for name in ("whole", f"processes{processes}"))
    accumulated = first_gradient(shared, KINDS[kind], per_device=1)
    for other in (one[f"gradient/{kind}"], accumulated):
        assert (several[f"gradient/{kind}"] - other).norm() < 1e-12 * other.norm()


def test_four_processes_begin_two_go_on_and_one_ends_what_one_would_do_alone(shared, steps):
    """In double precision, because in single precision weights are no closer than their last bits."""
    relayed = relay(shared, "relay", steps, 4)
    alone = relay(shared, "alone", steps, 2, resume=None)  # accumulates twice
    for kind, settings in KINDS.items():
        with double():
            start = trainable(StableDiffusion(str(shared / "base"), **settings.get("base", {})).load())
        assert (relayed[kind] - alone[kind]).norm() < 1e-10 * (alone[kind] - start).norm()
