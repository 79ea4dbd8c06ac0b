"""One table of everything that can be measured: what it is called, coded, encoded, and when it is plausible.

A number without its row here does not travel. `encodable` is what the devices' fields can express: outside it
a value was not read but invented (quarantine). `plausible` is what a living person can show: outside it the
value is stored, marked and treated as a weak source, never dropped. `priority_band` is the coarse band in
which a gateway sends a value ahead of a backlog; every danger number of every pack lies inside it (a test
proves that).

Sources: LOINC and UCUM by the HL7 vital-signs profiles; MDC by ISO/IEEE 11073-10101; plausible ranges are
defaults for clinicians to sign off, no accepted standard exists.
"""

from __future__ import annotations

from dataclasses import dataclass

KPA_TO_MMHG = 7.50062
MMOL_TO_MGDL = 18.0156


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    number: small integer stored in the database; never reused.
    unit: UCUM. encodable, plausible: inclusive ranges in `unit`.
    priority_low, priority_high: at or below / at or above is priority; None where no side exists.
    """

    code: str
    number: int
    loinc: str | None
    unit: str
    mdc: int | None
    encodable: tuple[float, float]
    plausible: tuple[float, float]
    resolution: float
    zh: str
    en: str
    priority_low: float | None = None
    priority_high: float | None = None

    def is_priority(self, value: float) -> bool:
        """True if the value must not wait behind a backlog; implausible values always are."""
        low, high = self.plausible
        if not low <= value <= high:
            return True
        return (self.priority_low is not None and value <= self.priority_low) or (
            self.priority_high is not None and value >= self.priority_high
        )


_SFLOAT = (-2045e7, 2045e7)
_PRESSURE = (0.0, 2045.0)

# fmt: off
METRICS: dict[str, Metric] = {
    m.code: m
    for m in (
        Metric("systolic", 1, "8480-6", "mm[Hg]", 150021, _PRESSURE, (50, 300), 1, "收缩压", "Systolic", 100, 130),
        Metric("diastolic", 2, "8462-4", "mm[Hg]", 150022, _PRESSURE, (20, 200), 1, "舒张压", "Diastolic", 40, 85),
        Metric("mean_arterial", 3, "8478-0", "mm[Hg]", 150023, _PRESSURE, (30, 250), 1, "平均压", "Mean arterial"),
        Metric("pulse", 4, "8867-4", "/min", 149546, (0, 2045), (20, 250), 1, "脉搏", "Pulse", 50, 100),
        Metric("heart_rate", 5, "8867-4", "/min", 147842, (0, 65535), (20, 250), 1, "心率", "Heart rate", 50, 100),
        Metric("spo2", 6, "59408-5", "%", 150456, (0, 2045), (50, 100), 1, "血氧饱和度", "Oxygen saturation", 95, None),
        Metric("temperature", 7, "8310-5", "Cel", 150364, (-8388605e3, 8388605e3), (30, 43), 0.1, "体温", "Temperature", 35.0, 37.3),
        Metric("glucose", 8, "15074-8", "mmol/L", 160184, (0, 2045e3), (0.6, 33.3), 0.1, "血糖", "Glucose", 4.4, 7.0),
        Metric("weight", 9, "29463-7", "kg", 188736, (0, 655.35), (2, 300), 0.05, "体重", "Weight"),
        Metric("height", 10, "8302-2", "cm", 188740, (0, 6553.5), (40, 230), 0.1, "身高", "Height"),
        Metric("bmi", 11, "39156-5", "kg/m2", 188752, (0, 6553.5), (10, 80), 0.1, "体质指数", "BMI"),
        Metric("body_fat", 12, "41982-0", "%", 188748, (0, 6553.4), (2, 75), 0.1, "体脂率", "Body fat"),
        Metric("respiratory_rate", 13, "9279-1", "/min", 151562, (0, 255), (4, 70), 1, "呼吸频率", "Respiratory rate", 11, 21),
        Metric("steps", 14, "55423-8", "{steps}", None, (0, 16777215), (0, 100000), 1, "步数", "Steps"),
        Metric("perfusion_index", 15, "61006-3", "%", 150448, _SFLOAT, (0, 30), 0.1, "灌注指数", "Perfusion index"),
        Metric(
            "glucose_interstitial",
            16,
            "99504-3",
            "mmol/L",
            160212,
            (0, 2045e3),
            (0.6, 33.3),
            0.1,
            "组织液葡萄糖",
            "Interstitial glucose",
            4.4,
            7.0,
        ),
        Metric("ketone", 17, None, "mmol/L", None, (0, 2045e3), (0, 10), 0.1, "血酮", "Blood ketone", None, 0.6),
        Metric("hba1c", 18, "4548-4", "%", 160220, (0, 2045e7), (3, 20), 0.1, "糖化血红蛋白", "HbA1c"),
        Metric("fev1", 19, "20150-9", "L", None, (0, 100), (0.2, 8), 0.01, "第一秒用力呼气容积", "FEV1"),
        Metric("fvc", 20, "19868-9", "L", None, (0, 100), (0.3, 9), 0.01, "用力肺活量", "FVC"),
        Metric("fev1_fvc", 21, "19926-5", "%", None, (0, 200), (15, 100), 1, "一秒率", "FEV1/FVC"),
        Metric("basal_metabolism", 22, None, "kJ", None, (0, 65535), (2000, 20000), 1, "基础代谢", "Basal metabolism"),
        Metric("muscle_share", 23, "73965-6", "%", 188772, (0, 6553.5), (5, 80), 0.1, "肌肉率", "Muscle percentage"),
        Metric("muscle_mass", 24, "73964-9", "kg", 188776, (0, 655.35), (2, 150), 0.05, "肌肉量", "Muscle mass"),
        Metric("fat_free_mass", 25, None, "kg", 188756, (0, 655.35), (2, 200), 0.05, "去脂体重", "Fat-free mass"),
        Metric("soft_lean_mass", 26, None, "kg", 188760, (0, 655.35), (2, 200), 0.05, "软组织瘦体重", "Soft lean mass"),
        Metric("body_water", 27, None, "kg", 188764, (0, 655.35), (1, 150), 0.05, "体水分", "Body water mass"),
        Metric("impedance", 28, None, "Ohm", 188780, (0, 6553.5), (100, 2000), 0.1, "阻抗", "Impedance"),
        Metric("distance", 29, "55430-3", "m", 8454247, (0, 16777215), (0, 150000), 1, "距离", "Distance"),
        Metric("rr_interval", 31, None, "ms", None, (0, 64000), (240, 3000), 1, "RR 间期", "RR interval"),
        Metric("pulse_wave", 32, None, "1", 150452, (-3.5e38, 3.5e38), (-3.5e38, 3.5e38), 1e-9, "脉搏波", "Pulse wave"),
        Metric("sleep_minutes", 30, None, "min", None, (0, 279620), (0, 1440), 1, "睡眠时长", "Sleep"),
    )
}

# fmt: on
BY_NUMBER: dict[int, Metric] = {m.number: m for m in METRICS.values()}

# Coded results: code → allowed answers. They have no unit and are stored with their measurement, not as numbers.
CODED: dict[str, tuple[str, ...]] = {"fobt": ("positive", "negative", "invalid")}
