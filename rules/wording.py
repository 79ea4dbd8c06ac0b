"""What a doctor reads: the sentence, the clause behind it, which pack said so. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ingest.batch import Stored
from rules.evaluate import CENSORED, Compiled
from vitals.alert import Why
from vitals.metric import METRICS

# What the movement itself adds to the pack's sentence.
_SENTENCES = {
    Why.OPENED: ("请静坐休息后复测", "waiting for a repeat after rest"),
    Why.CONFIRMED: ("复测确认", "confirmed by a repeat"),
    Why.DEADLINE: ("到期未复测,自动告警", "no repeat came in time"),
    Why.UNVERIFIED: ("来源未经验证的危急值:请电话联系并复测", "unverified danger value: call and re-measure"),
    Why.URGENT: ("伴危险症状、妊娠或哺乳,不等复测", "danger symptom, pregnancy or lactation: no wait for a repeat"),
    Why.LATE: ("迟到的危急值", "late danger value"),
    Why.AT_ONCE: ("", ""),
    Why.WORSENED: ("较前加重", "worse than before"),
    Why.REPEATED: ("", ""),
    Why.SILENT: ("", ""),
    Why.NOT_CONFIRMED: ("复测未确认,请查看两次读数", "the repeat did not confirm; see both readings"),
}
_PLAIN_SENTENCES = {
    Why.OPENED: ("等待复测", "waiting for a repeat"),
    Why.URGENT: ("极危急,不等复测", "critical, no wait for a repeat"),
}
_FACT_WORDS = {
    "age_years": "出生日期", "pregnant": "是否妊娠", "lactating": "是否哺乳", "hypertension": "是否患高血压", "diabetes": "是否患糖尿病",
    "chronic_lung_disease": "是否患慢性肺病", "heart_failure": "是否患心力衰竭",
}  # fmt: skip


def explain(compiled: Compiled, why: Why, stored: Stored | None, columns: Mapping[str, float], inputs: Sequence[int]) -> dict[str, Any]:
    """The sentence for the doctor in both languages, the clause behind it, which pack said so, and what it was concluded from.

    columns: the rule's own, for the sentence. inputs: measurements that it looked back at.
    """
    rule, document = compiled.rule, compiled.pack.document
    source = document.sources[rule.source]
    agreed = compiled.pack.numbers | {name[1:]: value for name, value in columns.items() if name.startswith("$")}
    told: dict[str, Any] = {
        "title_zh": rule.zh, "title_en": rule.en, "pack": compiled.pack.name, "pack_digest": compiled.pack.digest,
        "clause": {"cite": source.cite, "loc": source.loc, "quote": source.quote},
        "action": {"code": rule.action.code, "zh": rule.action.zh, "en": rule.action.en, "follow_up_days": rule.action.follow_up_days},
        "thresholds": {
            name: agreed[f"danger_{name}"] for name in ("systolic", "diastolic") if f"danger_{name}" in agreed
        },  # lines for a chart: metric → danger threshold
    }  # fmt: skip
    more_zh, more_en = _SENTENCES.get(why, ("", ""))
    if not compiled.by_symptoms:  # what is said of symptoms, pregnancy and rest is said of blood pressure
        more_zh, more_en = _PLAIN_SENTENCES.get(why, (more_zh, more_en))
    made = {name: f"{value:.3g}" for name, value in columns.items() if value == value and not name.startswith("$")}
    if stored is not None or made:
        # as the device showed it: half-up to the pack's grid
        grids = document.round
        numbers = {
            code: f"{math.floor(value / grids[code] + 0.5) * grids[code]:.{_digits(grids[code])}f}" if code in grids else f"{value:g}"
            for code, value in (stored.measurement.values.items() if stored else ())
            if not isinstance(value, str)
        } | {code: said for code, said in (stored.measurement.codes.items() if stored else ()) if said in CENSORED}
        parameters = {name: f"{value:g}" if value == value else "—" for name, value in agreed.items()}
        words = {**dict.fromkeys((*METRICS, *rule.columns), "—"), **parameters, **numbers, **made}
        told["zh"] = rule.explain.zh.format_map(words) + (f"。{more_zh}" if more_zh else "")
        told["en"] = rule.explain.en.format_map(words) + (f"; {more_en}" if more_en else "")
    elif more_zh:
        told["because_zh"], told["because_en"] = more_zh, more_en
    if compiled.rule.absence is not None:
        told["zh"], told["en"] = rule.explain.zh, rule.explain.en
    if stored is not None:
        if stored.weak:
            told["weak"] = list(stored.weak)
        told["measured_at"] = stored.measurement.measured_at.isoformat()
        told["time_quality"] = stored.measurement.time_quality
    tell = rule.tell.repeat if why is Why.OPENED and rule.tell.repeat is not None else rule.tell.act
    told["tell"] = {"zh": tell.zh, "en": tell.en}
    if inputs:
        told["inputs"] = list(inputs)
    if made:
        told["values"] = {name: round(value, 3) for name, value in columns.items() if name in made}
    return told


def ask(compiled: Compiled, missing: Sequence[str]) -> dict[str, Any]:
    """What a nurse is asked where a fact that nobody recorded would decide."""
    words = "、".join(_FACT_WORDS.get(name, name) for name in missing)
    titles = {"title_zh": "需要补充信息", "title_en": "Something is not known"}
    told = titles | {"zh": f"请询问并记录:{words}", "en": f"ask and record: {', '.join(missing)}", "facts": list(missing)}
    return told | {"pack": compiled.pack.name, "pack_digest": compiled.pack.digest}


def not_judged(compiled: Compiled, stored: Stored) -> dict[str, Any]:
    """What a doctor is told where a rule broke on a measurement: nothing dangerous may pass unseen because of it."""
    rule = compiled.rule
    values = ", ".join(f"{code} {value}" for code, value in stored.measurement.values.items())
    zh = f"规则“{rule.zh}”无法判断此次测量({values}),请人工查看"
    titles = {"title_zh": "规则未能判断,请人工查看", "title_en": "A rule could not judge: look yourself"}
    told = titles | {"zh": zh, "en": f'"{rule.en}" could not judge this measurement ({values}): look at it yourself', "rule": rule.id}
    return told | {"pack": compiled.pack.name, "pack_digest": compiled.pack.digest}


def _digits(grid: float) -> int:
    return max(0, -math.floor(math.log10(grid)))
