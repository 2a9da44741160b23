"""What a comparison of models leaves, as `report.json` has it; fractions, never percent."""

from typing import Any, NotRequired, TypedDict


class ModelPair(TypedDict):
    """One model against another, by one scorer: how often `a` beats `b`, a tie counting half.

    Attributes:
        win_rate_low, win_rate_high: ends of the interval over prompts.
        lengths: of texts, mean characters of both models' answers.
        longer: of texts, how often that of `a` is the longer one, a tie counting half.
    """

    a: str
    b: str
    metric: str
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    lengths: NotRequired[list[float]]
    longer: NotRequired[float]


class Report(TypedDict):
    """What every comparison says, whatever the models make.

    Attributes:
        n_prompts: that all models were given.
        versions: of everything that could change a result.
        scorers: by name, what each depends on, the first one first.
        models: by name, the first one first: `source`, `folder`, `listing`, `scores` by scorer, and aspects.
        pairs: of models.
        seed: of what was evaluated.
        seconds: that it took.
    """

    n_prompts: int
    versions: dict[str, str]
    scorers: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    pairs: list[ModelPair]
    seed: NotRequired[int]
    seconds: NotRequired[float]


class PictureReport(Report):
    """Of models that draw.

    Attributes:
        pictures: of each prompt.
        guidance: scale; None if it differs.
        warnings: what keeps from believing it.
        guidance_sweep: how the scale was chosen; None if it was given.
        frechet: what each model's `frechet` depends on, if distances were measured, else None.
    """

    pictures: int
    guidance: float | None
    steps: int
    warnings: list[str]
    guidance_sweep: NotRequired[dict[str, Any] | None]
    frechet: NotRequired[dict[str, Any] | None]


class RewriteReport(Report):
    """Of models that rewrite prompts.

    Attributes:
        rewrites: of each prompt.
        turns: prompts that one conversation asks.
        warnings: as of pictures; the page has room for them.
    """

    rewrites: int
    turns: int
    temperature: float
    warnings: NotRequired[list[str]]


class TextReport(Report):
    """Of models that answer prompts.

    Attributes:
        answers: to each prompt.
        temperature: of those that are sampled here.
        warnings: what was cut, or keeps from believing it.
    """

    answers: int
    temperature: float
    warnings: list[str]
