"""GATT characteristic values as values: decode and encode side by side, any bytes → value or `DecodeError`.

Layouts follow the Bluetooth SIG GATT Specification Supplement, one file for each idea. `decode` finds the codec of a
characteristic or of a vendor's profile; `quirks` come from the table of models (`vitals.device_model`). Special words
become codes with a reason and never numbers; what a device sends and is no person's reading (a control solution, a
demonstration, a placeholder of zeros) decodes and says so in `not_a_reading`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt import (
    activity,
    advertised,
    blood_pressure,
    cgm,
    device,
    glucose,
    health_sensor,
    heart_rate,
    omron,
    oximeter,
    records,
    scale,
    thermometer,
)
from vitals.gatt.blood_pressure import (
    BloodPressureMeasurement,
    BloodPressureStatus,
    EnhancedBloodPressure,
)
from vitals.gatt.device import CurrentTime
from vitals.gatt.fields import DeviceTime, Features, Value, uuid16

__all__ = ["BloodPressureMeasurement", "BloodPressureStatus", "CurrentTime", "DeviceTime", "Value", "decode", "decode_json", "uuid16"]

BLOOD_PRESSURE_SERVICE = uuid16(0x1810)
BLOOD_PRESSURE_MEASUREMENT = uuid16(0x2A35)
BLOOD_PRESSURE_FEATURE = uuid16(0x2A49)
CURRENT_TIME = uuid16(0x2A2B)
DATE_TIME = uuid16(0x2A08)
BATTERY_LEVEL = uuid16(0x2A19)
MODEL_NUMBER, SERIAL_NUMBER, FIRMWARE, MAKER = uuid16(0x2A24), uuid16(0x2A25), uuid16(0x2A26), uuid16(0x2A29)
RECORD_ACCESS = uuid16(0x2A52)
GLUCOSE_MEASUREMENT, GLUCOSE_CONTEXT = uuid16(0x2A18), uuid16(0x2A34)
CGM_MEASUREMENT, CGM_SESSION_START = uuid16(0x2AA7), uuid16(0x2AAA)
USER_CONTROL = uuid16(0x2A9F)

_Decoder = Callable[[bytes, frozenset[str]], Value]
_no_quirks: Callable[[Callable[[bytes], Value]], _Decoder] = lambda codec: lambda data, _quirks: codec(data)  # noqa: E731

_CODECS: dict[str, _Decoder] = {
    "2A35": BloodPressureMeasurement.from_bytes,
    "2A36": lambda data, quirks: BloodPressureMeasurement.from_bytes(data, quirks, intermediate=True),
    "2A49": _no_quirks(lambda data: Features.from_bytes(data, blood_pressure.FEATURES)),
    "2B34": _no_quirks(EnhancedBloodPressure.from_bytes),
    "2A18": _no_quirks(glucose.GlucoseMeasurement.from_bytes),
    "2A34": _no_quirks(glucose.GlucoseContext.from_bytes),
    "2A51": _no_quirks(lambda data: Features.from_bytes(data, glucose.FEATURES)),
    "2A52": _no_quirks(records.RecordAccess.from_bytes),
    "2AA7": cgm.GlucoseRecords.from_bytes,
    "2AA8": cgm.GlucoseMonitorFeature.from_bytes,
    "2AA9": cgm.GlucoseMonitorStatus.from_bytes,
    "2AAA": cgm.SessionStart.from_bytes,
    "2AAB": cgm.RunTime.from_bytes,
    "2AAC": _no_quirks(cgm.ControlPoint.from_bytes),
    "2A37": _no_quirks(heart_rate.HeartRateMeasurement.from_bytes),
    "2A5E": _no_quirks(oximeter.SpotCheck.from_bytes),
    "2A5F": _no_quirks(oximeter.Continuous.from_bytes),
    "2A1C": _no_quirks(thermometer.TemperatureMeasurement.from_bytes),
    "2A1E": _no_quirks(lambda data: thermometer.TemperatureMeasurement.from_bytes(data, intermediate=True)),
    "2A9D": _no_quirks(scale.WeightMeasurement.from_bytes),
    "2A9C": lambda data, quirks: (
        advertised.XiaomiScale.from_v2(data) if "xiaomi_layout_2a9c" in quirks else scale.BodyComposition.from_bytes(data)
    ),
    "2A9F": _no_quirks(scale.UserControl.from_bytes),
    "2A08": _no_quirks(device.DateTimeValue.from_bytes),
    "2A2B": _no_quirks(CurrentTime.from_bytes),
    "2A0F": _no_quirks(device.LocalTime.from_bytes),
    "2A19": _no_quirks(device.BatteryLevel.from_bytes),
    "2A23": _no_quirks(device.SystemId.from_bytes),
    "2A50": _no_quirks(device.PnpId.from_bytes),
    **dict.fromkeys(("2A00", "2A24", "2A25", "2A26", "2A27", "2A28", "2A29"), _no_quirks(device.Text.from_bytes)),
    "2B40": _no_quirks(activity.StepSummary.from_bytes),
    "2B42": _no_quirks(activity.SleepSummary.from_bytes),
    "2BF2": _no_quirks(health_sensor.ElapsedTime.from_bytes),
    **dict.fromkeys(("2B8B", "2BDD"), _no_quirks(health_sensor.Observation.from_bytes)),
    "OMRON_PROPRIETARY_RECORD": _no_quirks(omron.OmronRecord.from_bytes),
    "XIAOMI_SCALE_V1_ADV": _no_quirks(advertised.XiaomiScale.from_v1),
    **dict.fromkeys(("XIAOMI_SCALE_V2_ADV", "XIAOMI_SCALE_V2_GATT"), _no_quirks(advertised.XiaomiScale.from_v2)),
    "POLAR_ADV": _no_quirks(advertised.PolarAdvertisement.from_bytes),
    "BTHOME_V2_ADV": _no_quirks(advertised.BTHome.from_bytes),
}

NAMES: tuple[str, ...] = tuple(name if len(name) == 4 else name.lower() for name in _CODECS)


def short(uuid: str) -> str:
    """The name under which `decode` knows a characteristic: "2A35" for "0x2a35" and for the 128-bit form; others as they are."""
    name = uuid.strip().upper().removeprefix("0X")
    if len(name) == 36 and name.endswith("-0000-1000-8000-00805F9B34FB"):
        name = name[4:8] if name.startswith("0000") else name
    return name


def decode(uuid: str, data: bytes, quirks: frozenset[str] = frozenset(), key: bytes | None = None, address: str = "") -> Value:
    """Decode one value by its characteristic ("2A35") or vendor profile ("xiaomi_scale_v1_adv").

    key, address: only for an encrypted advertisement. Raises DecodeError: `unknown_characteristic`, or the codec's
    reason for bytes that do not decode.
    """
    if key is not None and short(uuid) == "BTHOME_V2_ADV":
        return advertised.BTHome.from_bytes(data, key, address)
    codec = _CODECS.get(short(uuid))
    if codec is None:
        raise DecodeError("unknown_characteristic", uuid[:64])
    return codec(data, quirks)


def decode_json(
    uuid: str, data: bytes, quirks: frozenset[str] = frozenset(), key: bytes | None = None, address: str = ""
) -> dict[str, Any]:
    """What `yizhan gatt decode` prints: the value's fields, and whether (and why) it must not be published as a reading."""
    value = decode(uuid, data, quirks, key, address)
    reasons = value.not_a_reading()
    return {**value.as_json(), "must_not_publish": bool(reasons), "reasons": reasons}
