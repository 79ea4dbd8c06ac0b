"""IEEE 11073 SFLOAT: 16 bits, 4-bit exponent and 12-bit mantissa, both two's complement, base ten.

Five words are not numbers but messages of the device; they decode to `Special` and never to a float
(0x07FF as 2047 mmHg is the classic fault). Source: IEEE 11073-20601 annex F; Bluetooth personal health devices
transcoding paper. The raw word decides: 0x17FF is 2047e1, a number.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum

from vitals.errors import BadInput


class Special(StrEnum):
    """A value that is not a number; the text is what travels in `codes`."""

    NAN = "NaN"
    NRES = "NRes"
    PLUS_INFINITY = "+INF"
    MINUS_INFINITY = "-INF"
    RESERVED = "reserved"


SPECIAL_WORDS = {
    0x07FF: Special.NAN,
    0x0800: Special.NRES,
    0x07FE: Special.PLUS_INFINITY,
    0x0802: Special.MINUS_INFINITY,
    0x0801: Special.RESERVED,
}
_WORDS = {special: word for word, special in SPECIAL_WORDS.items()}


def decode(word: int) -> float | Special:
    """Decode one little-endian word already read as an unsigned integer."""
    if word in SPECIAL_WORDS:
        return SPECIAL_WORDS[word]
    mantissa = (word & 0x0FFF) - (0x1000 if word & 0x0800 else 0)
    exponent = (word >> 12) - (0x10 if word & 0x8000 else 0)
    # dividing by a power of ten gives the float nearest to the decimal; multiplying by 0.1 does not
    return float(mantissa * 10**exponent) if exponent >= 0 else mantissa / 10**-exponent


def encode(value: float | Special) -> int:
    """Encode with the smallest exponent that keeps every digit; rounds half to even where 12 bits do not suffice.

    Raises BadInput `sfloat_range` for a number that no word can express.
    """
    if isinstance(value, Special):
        return _WORDS[value]
    number = Decimal(repr(float(value)))
    if not number.is_finite():
        raise BadInput("sfloat_range", "not a finite number; use a Special")
    best: int | None = None
    for exponent in range(-8, 8):
        scaled = number.scaleb(-exponent)
        mantissa = int(scaled.to_integral_value(ROUND_HALF_EVEN))
        if exponent == 0 and scaled == mantissa and abs(mantissa) <= 2045:
            best = mantissa & 0x0FFF
            break  # the plain integer, as real cuffs send it
        word = ((exponent & 0xF) << 12) | (mantissa & 0x0FFF)
        fits = -2048 <= mantissa <= 2047 and word not in SPECIAL_WORDS
        if fits and best is None:
            best = word
    if best is None:
        raise BadInput("sfloat_range", "outside ±2047e7")
    return best
