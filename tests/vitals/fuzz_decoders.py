"""Coverage-guided fuzzing of every decoder: any bytes are a value or a DecodeError, and a value survives the wire.

    python -m tests.vitals.fuzz_decoders [--only cgm] CORPUS… [-max_total_time=600]

The first byte chooses the decoder, the second the quirks of a model; the rest is what a device sends.
"""

from __future__ import annotations

import json
import sys

import atheris

with atheris.instrument_imports(include=["vitals"]):
    from vitals import device_model, gatt
    from vitals.errors import DecodeError

QUIRKS = sorted({model.quirks for model in device_model.models().values()}, key=sorted)


def groups() -> dict[str, list[str]]:
    """Codec file → the names it decodes, found by where a name's codec lives."""
    found: dict[str, list[str]] = {}
    for name in gatt.NAMES:
        found.setdefault(_module(name), []).append(name)
    return found


def _module(name: str) -> str:
    for module, starts in {
        "blood_pressure": ("2A35", "2A36", "2A49", "2B34"), "glucose": ("2A18", "2A34", "2A51"), "records": ("2A52",),
        "cgm": ("2AA",), "heart_rate": ("2A37",), "oximeter": ("2A5E", "2A5F"), "thermometer": ("2A1C", "2A1E"),
        "scale": ("2A9",), "activity": ("2B4",), "health_sensor": ("2BF2", "2B8B", "2BDD"), "omron": ("omron",),
        "advertised": ("xiaomi", "polar", "bthome"),
    }.items():  # fmt: skip
        if name.startswith(starts):
            return module
    return "device"


def target(names: list[str]) -> object:
    def one_input(data: bytes) -> None:
        if len(data) < 2:
            return
        name, quirks, sent = names[data[0] % len(names)], QUIRKS[data[1] % len(QUIRKS)], bytes(data[2:])
        try:
            value = gatt.decode(name, sent, quirks)
        except DecodeError:
            return
        json.dumps(gatt.decode_json(name, sent, quirks), allow_nan=False)
        if not quirks and len(sent) < 200 and gatt.decode(name, bytes(value)) != value:  # type: ignore[call-overload]
            raise AssertionError(f"{name} {sent.hex()} does not survive the wire")

    return one_input


def main() -> None:
    arguments = sys.argv[:]
    names = list(gatt.NAMES)
    if "--only" in arguments:
        at = arguments.index("--only")
        names = groups()[arguments[at + 1]]
        del arguments[at : at + 2]
    atheris.Setup(arguments, target(names))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
