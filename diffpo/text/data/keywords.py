"""Key phrases of an English text, and the text without some of them (RAKE).

Rose et al., Automatic Keyword Extraction from Individual Documents (Text Mining, Wiley 2010): phrases are the runs of
words between stop words and punctuation; a word scores degree / frequency, where its degree is the summed length of
the phrases that it stands in; a phrase scores the sum over its words.
"""

import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
ENGLISH = """
a about above after again against ain all almost also although always am among an and any are around as at away
be became because become been before being below between both but by can cannot could couldn did didn do does
doesn doing don done down during each either else enough even ever every few for from further get gets getting
go goes going got had hadn has hasn have haven having he hence her here hers herself him himself his how however
i if in indeed into is isn it its itself just least less let like many may maybe me might more most much must my
myself neither never no nor not now of off often on once one only onto or other others our ours ourselves out
over own per perhaps quite rather really same shall she should shouldn since so some such than that the their
theirs them themselves then there therefore these they this those though through thus to together too toward
towards under until up upon us very via was wasn we well were weren what whatever when where whether which while
who whom whose why will with within without won would wouldn yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(ENGLISH.split())


class Phrase(NamedTuple):
    """A run of words.

    Attributes:
        words: in lower case.
        start, end: where it stands in its text, in characters.
    """

    words: tuple[str, ...]
    start: int
    end: int


def find_phrases(text: str) -> list[Phrase]:
    """All phrases in their order; one that comes again is there again."""
    found: list[Phrase] = []
    run: list[re.Match] = []
    for match in [*TOKEN.finditer(text), None]:
        if match is not None and is_content(match.group()):
            run.append(match)
        elif run:
            found.append(Phrase(tuple(word.group().lower() for word in run), run[0].start(), run[-1].end()))
            run = []
    return found


def is_content(token: str) -> bool:
    word = token.lower().replace("’", "'")
    return any(map(str.isalnum, word)) and word.split("'")[0] not in STOP_WORDS


def rank_phrases(found: list[Phrase]) -> list[tuple[str, ...]]:
    """The different phrases, best first; of equals, the earlier one."""
    frequency: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    for phrase in found:
        for word in phrase.words:
            frequency[word] += 1
            degree[word] += len(phrase.words)
    different = dict.fromkeys(phrase.words for phrase in found)
    return sorted(different, key=lambda words: -sum(degree[word] / frequency[word] for word in words))


def remove_phrases(text: str, found: list[Phrase], removed: Collection[tuple[str, ...]]) -> str:
    """The text without some of its phrases, wherever they stand, and without the blanks before them."""
    kept, end = [], 0
    for phrase in found:
        if phrase.words in removed:
            kept.append(text[end : phrase.start].rstrip(" "))
            end = phrase.end
    return "".join([*kept, text[end:]]).lstrip(" ")
