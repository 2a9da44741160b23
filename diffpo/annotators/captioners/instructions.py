"""What models are asked for: our own words, since DCPO (arXiv:2502.06023) does not publish its instructions."""

from diffpo.core.refusal import Refusal

DESCRIBE = (
    "This picture was made by a program that was told: {prompt}\n"
    "Say in one sentence of at most 40 words what the picture really shows, also where that differs from what the "
    "program was told. Answer with this sentence only."
)

KEEP = "Answer with the new text only, in one line and about as long as the old one.\nText: {text}"
REWRITE = (
    f"Change a few words of this text into other words that mean the same. {KEEP}",
    f"Rewrite this text: change about half of its words, and let its meaning drift a little. {KEEP}",
    f"Rewrite this text with nearly no word in common, and change some of what it describes. {KEEP}",
)


def require_template(instruction: str, placeholder: str, asker: object) -> None:
    """Raise a Refusal if an instruction has no place for what is asked about."""
    if placeholder not in instruction:
        raise Refusal(
            f"{type(asker).__name__} has the instruction {instruction!r} without {placeholder}; write it where the "
            "text shall stand."
        )
