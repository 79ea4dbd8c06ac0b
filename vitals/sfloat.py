"""IEEE 11073 floats, base ten, exponent and mantissa two's complement: SFLOAT (4 and 12 bits) and FLOAT (8 and 24 bits).

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
SPECIAL_WORDS_32 = {
    0x007FFFFF: Special.NAN,
    0x00800000: Special.NRES,
    0x007FFFFE: Special.PLUS_INFINITY,
    0x00800002: Special.MINUS_INFINITY,
    0x00800001: Special.RESERVED,
}
_WORDS_32 = {special: word for word, special in SPECIAL_WORDS_32.items()}


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


def decode32(word: int) -> float | Special:
    """Decode one FLOAT word already read as an unsigned integer; an exponent beyond ±64 is `reserved`, no quantity has it."""
    if word in SPECIAL_WORDS_32:
        return SPECIAL_WORDS_32[word]
    mantissa = (word & 0x00FFFFFF) - (0x01000000 if word & 0x00800000 else 0)
    exponent = (word >> 24) - (0x100 if word & 0x80000000 else 0)
    if abs(exponent) > 64:
        return Special.RESERVED
    return float(mantissa * 10**exponent) if exponent >= 0 else mantissa / 10**-exponent


def encode32(value: float | Special) -> int:
    """Encode a FLOAT with the fewest digits that keep the value; raises BadInput `float_range` beyond ±8388607e64."""
    if isinstance(value, Special):
        return _WORDS_32[value]
    number = Decimal(repr(float(value)))
    if not number.is_finite():
        raise BadInput("float_range", "not a finite number; use a Special")
    sign, digits, exponent = number.normalize().as_tuple()
    assert isinstance(exponent, int)
    mantissa = int("".join(map(str, digits))) if digits else 0
    while mantissa > (0x800000 if sign else 0x7FFFFF) or exponent < -64:
        mantissa, exponent = int((Decimal(mantissa) / 10).to_integral_value(ROUND_HALF_EVEN)), exponent + 1
        if not mantissa:
            return 0
    while exponent > 0 and mantissa * 10 <= 0x7FFFFD:
        mantissa, exponent = mantissa * 10, exponent - 1
    if exponent > 64:
        raise BadInput("float_range", "outside ±8388607e64")
    if exponent == 0 and mantissa > 0x7FFFFD:  # would be one of the special words
        mantissa, exponent = int((Decimal(mantissa) / 10).to_integral_value(ROUND_HALF_EVEN)), 1
    return (exponent & 0xFF) << 24 | (-mantissa if sign else mantissa) & 0xFFFFFF
