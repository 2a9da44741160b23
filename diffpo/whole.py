"""What is loaded is whole: the names and shapes in a file against those of the network that it fills.

Libraries only warn about weights that a file lacks, has under other names or has in other shapes, and leave the
network's own, random ones in their place.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from diffpo.refusal import Refusal

COMPILED = "_orig_mod."
WRAPPERS = ("module.", "policy.")

log = logging.getLogger(__name__)


def match_weights(
    found: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
    path: str,
    what: str,
    spare: Iterable[str] = (),
) -> dict[str, str]:
    """The name in the network of each tensor in a file; what torch.compile, DDP and trainers put before is taken off.

    Args:
        found: shapes by name in the file.
        wanted: shapes by name in the network.
        path: of the file, for messages.
        what: it should hold, e.g. "a UNet".
        spare: names that the file may have though the network has not, or lack though it has; they are left out.

    Raises:
        Refusal: if the file lacks a tensor, has one too many, or one of another shape: it names the first.
    """
    spare = set(spare)
    names = {name: name if name in wanted else unwrapped(name) for name in found}
    names = {name: ours for name, ours in names.items() if ours in wanted or ours not in spare}
    there = set(names.values())
    have = Counter((ours, tuple(found[name])) for name, ours in names.items())
    need = Counter((ours, tuple(shape)) for ours, shape in wanted.items() if ours in there or ours not in spare)
    if misfits := sorted({ours for ours, _ in (have - need) + (need - have)}):
        first = misfits[0]
        raise Refusal(
            f"{path} does not hold {what}: {len(misfits)} of its weights do not fit, the first is {first}, which has "
            f"shape {dict(have.keys()).get(first, 'none')} and should have {dict(need.keys()).get(first, 'none')}; "
            "name the file that belongs to this network."
        )
    if renamed := [name for name, ours in names.items() if name != ours]:
        log.warning(
            f"{path}: {len(renamed)} names of weights lost what a wrapper had put into them, e.g. {renamed[0]}."
        )
    return names


def unwrapped(name: str) -> str:
    """A weight's name without what torch.compile, DDP or a trainer put before it."""
    name = name.replace(COMPILED, "")
    while wrapper := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(wrapper)
    return name
