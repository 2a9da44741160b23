import torch

from diffpo.core.moving import MovingParts, RunningMean


def told(mean: RunningMean, *micro_batches: list[float]) -> RunningMean:
    for values in micro_batches:
        mean.hear(torch.tensor(values))
    mean.after_step(lambda x: x)
    return mean


def test_pairs_of_all_micro_batches_and_processes_count_alike():
    mean = told(RunningMean(0.9), [1.0, 2.0, 3.0], [6.0])
    assert mean.value == 3.0
    mean = RunningMean(0.0)
    mean.hear(torch.tensor([1.0, 2.0]))
    mean.after_step(lambda mine: mine + torch.tensor([9.0, 2.0]))  # of another process
    assert mean.value == 3.0


def test_steps_fade():
    assert told(told(RunningMean(0.75), [2.0]), [4.0]).value == 2.5


def test_a_skipped_step_does_not_count():
    mean = told(RunningMean(0.5), [2.0])
    mean.hear(torch.tensor([torch.inf]))
    mean.forget()
    assert told(mean, [4.0]).value == 3.0


def test_all_parts_are_kept_in_order():
    parts = [told(RunningMean(0.5), [1.0]), told(RunningMean(0.5), [2.0])]
    fresh = [RunningMean(0.5), RunningMean(0.5)]
    MovingParts(fresh).load_state_dict(MovingParts(parts).state_dict())
    assert [mean.value for mean in fresh] == [1.0, 2.0]
