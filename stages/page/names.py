"""Names of classes, as users write them, in pictures."""

import sys
import unicodedata
from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font

LETTERS = 28  # of a name that fit above an image, beside an axis and in a legend
FONT = "DejaVu Sans"  # matplotlib's own
BOXES = "Last Resort"  # matplotlib's font that draws a box for any character
SHOWN = 10  # characters without a font that the message lists


def legible(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables, with fonts set that draw what is written in them, as far as this system has such fonts.

    Other characters become their codes, such as \\u732b, and one line says which and what to do.
    """
    written = [table[name] for table in tables.values() for name in table if table[name].dtype.kind not in "biuf"]
    missing = {character for column in written for text in column.unique() for character in text}
    families: list[str] = []
    upright = (font for font in fontManager.ttflist if font.style == "normal" and not font.name.startswith(BOXES))
    others = sorted(upright, key=lambda font: font.fname)
    for file, family in [(findfont(FONT), FONT), *((font.fname, font.name) for font in others)]:
        font = FT2Font(file)
        drawn = missing.intersection(map(chr, font.get_charmap())) if font.scalable else set()
        if drawn or not families:
            families.append(family)
            missing -= drawn
        if not missing:
            break
    mpl.rcParams["font.family"] = families
    # Marks that join or vary other characters draw nothing of their own.
    codes = {one: "" if unicodedata.category(one) in ("Cf", "Mn") else ascii(one)[1:-1] for one in sorted(missing)}
    if any(codes.values()):
        some = "".join(one for one in codes if codes[one])[:SHOWN]
        print(
            f"no font draws {some}: pictures show such characters as codes; Debian's package fonts-noto has most",
            file=sys.stderr,  # `predict` prints tables
        )
    translated = str.maketrans(codes)
    return {
        name: table.map(lambda cell: cell.translate(translated) if isinstance(cell, str) else cell)
        for name, table in tables.items()
    }


def brief(name: str) -> str:
    """Cut to what fits."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
