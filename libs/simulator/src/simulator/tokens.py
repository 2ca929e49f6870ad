"""What a token is here: a word, a run of characters without white space. For prompts, answers and limits alike."""

from __future__ import annotations

import re
from typing import Final

_PIECES: Final = re.compile(r"\s*\S+(?:\s+\Z)?")

_TEXT = (
    "a able about above across after again air all along also always among and answer any are around as ask at away "
    "back be because been before began below best better between big book both boy bring but by call came can carry "
    "change city close come could country cut day did different do does done door down draw dry each early earth eat "
    "end enough even ever every eye face fact fall family far farm fast father feel feet few field find fire first "
    "fish five fly follow food for form found four friend from full game gave get girl give go good got govern great "
    "green ground group grow had half hand happen hard has have he head hear heard heat help her here high him his "
    "hold home horse hot hour house how idea if in inch is island it just keep kind king knew know land large last "
    "late learn leave left letter life light like line list listen little live long look low made main make man many "
    "map mark may me mean men might mile mind minute miss money moon more morning most mother mountain move much "
    "multiply music must my name near need never new next night no north notice noun now number numeral object of off "
    "often oil old on once one only open or order other our out over own page paper part pass pattern people person "
    "picture piece plain plan plant play point port pose press problem produce product pull push put question quick "
    "rain ran"
)
WORDS: Final = _TEXT.split()
"""256 of them: one for each value of a byte."""


def count(text: str) -> int:
    return len(text.split())


def pieces(text: str) -> list[str]:
    """The tokens of `text` with the white space around them: `count(text)` pieces that join to `text` again."""
    return _PIECES.findall(text)
