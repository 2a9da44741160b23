"""Synthetic users of the tiny world, as PPD (arXiv:2501.06655) has them: tastes over what the oracle measures."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from io import BytesIO
from itertools import combinations, product
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.captions import TRAINING_FAMILIES, VOCABULARY
from diffpo.lab.shapes.oracle import Measurement, measure, noisy_label, share
from diffpo.lab.shapes.preferences import CHUNK, LAYOUT, Split, jpeg
from diffpo.lab.shapes.scenes import BACKGROUNDS, EXTENT, VIVIDNESS, Attributes

WARM = ("red", "yellow", "pink")
POINTED = ("triangle", "cross")
SIDEWAYS = {"left": -1.0, "right": 1.0}
UPWARD = {"bottom": -1.0, "top": 1.0}
OPEN = ("color", "shape", "background", "position")
SHADES = {name: 2 * float(np.mean(rgb)) - 1 for name, rgb in BACKGROUNDS.items()}
JUDGED = Features({**LAYOUT, "user_id": Value("string"), "pair_id": Value("int64")})


@dataclass(frozen=True)
class Taste:
    """What a user likes: weights of traits that are each in [-1, 1]; a negative weight likes the opposite.

    Args:
        size: large objects, not small ones.
        vividness: vivid colors, not pale ones.
        warmth: red, yellow and pink objects, not green, cyan and blue ones.
        light: light backgrounds, not dark ones.
        right: objects on the right, not on the left.
        top: objects at the top, not at the bottom.
        pointed: triangles and crosses, not circles and squares.

    Raises:
        Refusal: if the weights are no direction, that is, not of length 1.
    """

    size: float = 0.0
    vividness: float = 0.0
    warmth: float = 0.0
    light: float = 0.0
    right: float = 0.0
    top: float = 0.0
    pointed: float = 0.0

    def __post_init__(self):
        if not np.isclose(length := np.linalg.norm(self.weights), 1):
            raise Refusal(f"A taste needs weights of length 1, {self} has {length:.4g}; divide them by that.")

    @property
    def weights(self) -> Float[np.ndarray, "7"]:
        return np.array(astuple(self))

    def utility(self, measured: Measurement, asked: Attributes) -> float:
        """Share of the stated attributes that are right + w . traits / sqrt(7); -1 without a clean object.

        A trait that the prompt states does not count. The second part is above -1: tastes have length 1, and no
        picture is extreme in all seven traits. So a picture without a clean object loses to every other.
        """
        if not measured.clean:
            return -1.0
        return measured.right(asked) + float(self.weights @ traits(measured, asked)) / len(AXES) ** 0.5


AXES = tuple(field.name for field in fields(Taste))


def traits(measured: Measurement, asked: Attributes) -> Float[np.ndarray, "7"]:
    """The traits of a clean picture, in the order of `AXES`; 0 where the prompt says what it should be."""
    seen, stated = measured.seen.stated(), asked.stated()
    about = {
        "size": ("size", 2 * share(measured.extent, EXTENT) - 1),
        "vividness": ("vividness", 2 * share(measured.vividness, VIVIDNESS) - 1),
        "warmth": ("color", 1 if seen["color"] in WARM else -1),
        "light": ("background", SHADES[seen["background"]]),
        "right": ("position", SIDEWAYS.get(seen["position"], 0)),
        "top": ("position", UPWARD.get(seen["position"], 0)),
        "pointed": ("shape", 1 if seen["shape"] in POINTED else -1),
    }
    return np.array([0 if attribute in stated else trait for attribute, trait in about.values()], dtype=float)


@dataclass(frozen=True)
class Population:
    """Tastes by the id of their user: of users who are trained on, and of users who are kept from training."""

    seen: dict[str, Taste]
    held_out: dict[str, Taste]

    def write(self, file: Path) -> None:
        told = {group: {user: liked(taste) for user, taste in users.items()} for group, users in vars(self).items()}
        file.write_text(json.dumps(told, indent=2) + "\n")

    @staticmethod
    def read(file: Path) -> "Population":
        told = json.loads(file.read_text())
        groups = ({user: Taste(**likes) for user, likes in told[group].items()} for group in ("seen", "held_out"))
        return Population(*groups)

    @property
    def all(self) -> dict[str, Taste]:
        return self.seen | self.held_out


def liked(taste: Taste) -> dict[str, float]:
    return {axis: weight for axis, weight in zip(AXES, taste.weights.tolist(), strict=True) if weight}


def population(seen: int = 24, held_out: int = 8, seed: int = 0) -> Population:
    """Users who care for two traits alike, each followed by the one of opposite taste.

    The seven traits stand in a circle in an order drawn from the seed. Seen users mix neighbors, held-out users mix
    traits that are no neighbors. So every trait is met in training with either sign, but no held-out user's mixture:
    the cosine between a held-out taste and a seen one is at most 1/2. Since tastes come in opposites,
    pictures that are the same for all users are worth, on average, their share of right attributes: only what is drawn
    for a user can be worth more.

    Raises:
        Refusal: if a number is odd, or more than the 28 seen and 56 held-out users that there are.
    """
    rng = np.random.default_rng(seed)
    circle, count = rng.permutation(AXES), len(AXES)
    users = {}
    for group, wanted, steps in (("seen", seen, (1,)), ("held-out", held_out, (2, 3))):
        lines = [
            (circle[i], circle[(i + step) % count], sign) for i in range(count) for step in steps for sign in (1, -1)
        ]
        if wanted % 2 or not 0 < wanted <= 2 * len(lines):
            raise Refusal(f"There can be 2, 4, ... {2 * len(lines)} {group} users, got {wanted}.")
        chosen = [lines[i] for i in rng.permutation(len(lines))[: wanted // 2]]
        tastes = [Taste(**{a: end / 2**0.5, b: end * sign / 2**0.5}) for a, b, sign in chosen for end in (1, -1)]
        users[group] = {f"{group}-{number:02d}": taste for number, taste in enumerate(tastes)}
    return Population(users["seen"], users["held-out"])


def split_prompts(seed: int = 0, development: int = 20, evaluation: int = 30) -> Split:
    """All prompts that state two of color, shape, background and position, in three parts that share none.

    The rest is left open, for users to like.
    """
    requests = [
        Attributes(**dict(zip(names, values, strict=True)))
        for names in combinations(OPEN, 2)
        for values in product(*(VOCABULARY[name] for name in names))
    ]
    mixed = [requests[i] for i in np.random.default_rng(seed).permutation(len(requests))]
    both = development + evaluation
    return Split(mixed[both:], mixed[:development], mixed[development:both])


def judged_pairs(
    pipeline: StableDiffusionPipeline,
    requests: list[Attributes],
    users: Mapping[str, Taste],
    pairs: int,
    viewers: int,
    steps: int = 25,
    guidance: float = 2.5,
    seed: int = 0,
    first_seed: int = 0,
    tie: float = 3.0,
) -> Dataset:
    """Two samples per prompt, each pair shown to several users: a row for each of them, in the layout of Pick-a-Pic.

    Beside the columns of that, `user_id` says who judged, by a noisy draw of the user's utility, and `pair_id` which
    rows show the same pictures.

    Args:
        requests: what prompts may ask for.
        viewers: users, drawn at random, who see a pair.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        first_seed: of the first picture; the others count up.
        tie: threshold below which a difference goes unnoticed, as of `oracle.noisy_label`. Two pictures of one prompt
            are often worth nearly the same to a user; at 3, three in five such comparisons are ties, and nine in ten
            of the others say what the user likes.

    Raises:
        Refusal: if there are not as many users as viewers.
    """
    if not 0 < viewers <= len(users):
        raise Refusal(f"A pair is to be shown to {viewers} of {len(users)} users; set viewers from 1 to that many.")
    rng = np.random.default_rng(seed)
    asked = [requests[i] for i in rng.integers(len(requests), size=pairs)]
    captions = [TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](request) for request in asked]

    def rows() -> Iterator[dict]:
        for begin in tqdm(range(0, pairs, CHUNK // 2), desc="pairs"):
            some = range(begin, min(begin + CHUNK // 2, pairs))
            seeds = [(first_seed + 2 * i, first_seed + 2 * i + 1) for i in some]
            twice, flat = [captions[i] for i in some for _ in range(2)], [one for both in seeds for one in both]
            made = iter(generate_pictures(pipeline, twice, flat, steps, guidance, batch_size=CHUNK))
            for i, (one, other) in zip(some, seeds, strict=True):
                jpegs = jpeg(next(made)), jpeg(next(made))
                shown = {"caption": captions[i], "jpg_0": jpegs[0], "jpg_1": jpegs[1], "seed_0": one, "seed_1": other}
                same = {"has_label": True, "are_different": True, "pair_id": i}
                viewing = {user: users[user] for user in rng.choice(list(users), size=viewers, replace=False)}
                yield from (shown | same | said for said in verdicts(jpegs, asked[i], viewing, rng, tie))

    return Dataset.from_list(list(rows()), features=JUDGED)


def verdicts(
    shown: tuple[bytes, bytes], asked: Attributes, users: Mapping[str, Taste], rng: np.random.Generator, tie: float
) -> Iterator[dict]:
    """What users say of two pictures."""
    first, second = map(measure_bytes, shown)
    for user, taste in users.items():
        label = noisy_label(taste.utility(first, asked) - taste.utility(second, asked), rng, tie=tie)
        yield {"user_id": user, "label_0": label, "label_1": 1 - label}


def measure_bytes(picture: bytes) -> Measurement:
    return measure(Image.open(BytesIO(picture)))
