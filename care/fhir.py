"""Our words in HL7 FHIR R4: a person, measurements, devices, conditions, a referral, what hangs together as a bundle. Pure.

Codes: LOINC and UCUM of the metric table; ICD-10 for the conditions on record. A blood pressure is one Observation (panel 85354-9) with its
components. The device's bytes travel as an extension, so that a hospital can check what we made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from vitals.metric import METRICS

OURS = "urn:yizhan"
LOINC, UCUM, ICD10 = "http://loinc.org", "http://unitsofmeasure.org", "http://hl7.org/fhir/sid/icd-10"
PANEL = {"system": LOINC, "code": "85354-9", "display": "Blood pressure panel with all children optional"}
PRESSURES = ("systolic", "diastolic", "mean_arterial")
CONDITIONS = {
    "hypertension": ("I10", "Essential (primary) hypertension"),
    "diabetes": ("E14.9", "Unspecified diabetes mellitus without complications"),
    "chronic_lung_disease": ("J98.4", "Other disorders of lung"), "heart_failure": ("I50.9", "Heart failure, unspecified"),
}  # fmt: skip
STATUS = {
    "suggested": "draft", "accepted": "active", "booked": "active", "seen": "active", "outcome": "active", "down_suggested": "active",
    "down_accepted": "completed", "community": "completed", "rejected": "revoked", "cancelled": "revoked",
}  # fmt: skip

Resource = dict[str, Any]


def patient(person: Mapping[str, Any]) -> Resource:
    found: Resource = {
        "resourceType": "Patient", "id": person["resident"], "identifier": [{"system": f"{OURS}:resident", "value": person["resident"]}],
        "name": [{"text": person["name"]}], "gender": person["sex"] or "unknown", "active": person.get("deceased_on") is None,
    }  # fmt: skip
    if person["birth_date"]:
        found["birthDate"] = person["birth_date"].isoformat()
    return found


def observations(row: Mapping[str, Any]) -> list[Resource]:
    """One measurement as Observations: its pressures together, everything else by itself."""
    numbers = {code: value for code, value in row["values"].items() if code in METRICS and isinstance(value, int | float)}
    pressures = [code for code in PRESSURES if code in numbers]
    found = []
    if pressures:
        found.append(_observation(row, "bp", PANEL) | {
            "component": [{"code": _code(code), "valueQuantity": _quantity(code, numbers[code])} for code in pressures]
        })  # fmt: skip
    for code, value in numbers.items():
        if code not in pressures:
            one = _observation(row, code.replace("_", "-"), _coding(code))
            found.append(one | {"valueQuantity": _quantity(code, value)})
    return found


def _code(metric: str) -> Resource:
    return {"coding": [_coding(metric)]}


def _coding(metric: str) -> Resource:
    """LOINC, or our own code where it has none."""
    loinc = METRICS[metric].loinc
    return {"system": LOINC if loinc else f"{OURS}:metric", "code": loinc or metric, "display": METRICS[metric].en}


def _quantity(metric: str, value: float) -> Resource:
    return {"value": value, "unit": METRICS[metric].unit, "system": UCUM, "code": METRICS[metric].unit}


def _observation(row: Mapping[str, Any], part: str, coding: Resource) -> Resource:
    return {
        "resourceType": "Observation", "id": f"m{row['measurement']}-{part}",
        "status": "final" if not row["weak"] else "preliminary",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
        "code": {"coding": [coding]}, "subject": {"reference": f"Patient/{row['subject']}"},
        "effectiveDateTime": row["measured_at"].isoformat(), "device": {"display": row["device"]},
        "extension": [
            {"url": f"{OURS}:setting", "valueCode": row["setting"]}, {"url": f"{OURS}:time-quality", "valueCode": row["time_quality"]},
            *([{"url": f"{OURS}:raw", "valueString": row["raw"]}] if row["raw"] else []),
            *({"url": f"{OURS}:weak", "valueCode": why} for why in row["weak"]),
        ],
    }  # fmt: skip


def device(row: Mapping[str, Any]) -> Resource:
    """When it was calibrated, or that nobody told us."""
    on = row["calibrated_on"]
    known = f"校准于 · calibrated on {on.isoformat()}" if on is not None else "校准日期未知 · date of calibration unknown"
    return {
        "resourceType": "Device", "id": row["device"].replace("_", "-"),
        "identifier": [{"system": f"{OURS}:device", "value": row["device"]}], "type": {"text": row["kind"]},
        **({"modelNumber": row["model"]} if row.get("model") else {}), **({"serialNumber": row["serial"]} if row.get("serial") else {}),
        "note": [{"text": known}],
    }  # fmt: skip


def conditions(resident: str, facts: Iterable[Mapping[str, Any]]) -> list[Resource]:
    clinical = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
    return [
        {
            "resourceType": "Condition", "id": f"{resident}-{row['fact'].replace('_', '-')}", "clinicalStatus": clinical,
            "code": {"coding": [{"system": ICD10, "code": CONDITIONS[row["fact"]][0], "display": CONDITIONS[row["fact"]][1]}]},
            "subject": {"reference": f"Patient/{resident}"}, "recordedDate": row["recorded_at"].isoformat(),
        }
        for row in facts if row["fact"] in CONDITIONS and row["value"] is True
    ]  # fmt: skip


def service_request(referral: Mapping[str, Any]) -> Resource:
    reasons = [{"text": one.get("zh") or one.get("en") or ""} for one in referral["criteria"]]
    return {
        "resourceType": "ServiceRequest", "id": f"referral-{referral['referral']}", "status": STATUS[referral["state"]], "intent": "order",
        "priority": "urgent" if referral["urgency"] == "emergency" else "routine",
        "subject": {"reference": f"Patient/{referral['resident']}"}, "authoredOn": referral["suggested_at"].isoformat(),
        "performer": [{"display": referral["hospital_name"] or referral["hospital"] or "—"}],
        "reasonCode": [one for one in reasons if one["text"]] or [{"text": referral["reason"] or "—"}],
        "note": [{"text": referral["reason"]}] if referral["reason"] else [{"text": "—"}],
    }  # fmt: skip


def consent(resident: str, said: Mapping[str, Any]) -> Resource:
    """What the person said about showing their record to the hospital; never asked is "draft"."""
    scope = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]}
    found: Resource = {
        "resourceType": "Consent", "id": f"{resident}-{said['purpose']}", "scope": scope,
        "category": [{"coding": [{"system": LOINC, "code": "59284-0", "display": "Consent Document"}]}],
        "patient": {"reference": f"Patient/{resident}"}, "policyRule": {"text": "个人信息保护法 · PIPL"},
        "status": "draft" if said["at"] is None else "active" if said["given"] else "inactive",
    }  # fmt: skip
    if said["at"] is not None:
        found["dateTime"] = said["at"].isoformat()
    return found


def bundle(kind: str, resources: Sequence[Resource], at: datetime, identifier: str | None = None) -> Resource:
    """kind: collection, searchset."""
    found: Resource = {
        "resourceType": "Bundle", "type": kind, "timestamp": at.isoformat(),
        "entry": [{"fullUrl": f"{OURS}:{one['resourceType']}:{one['id']}", "resource": one} for one in resources],
    }  # fmt: skip
    if identifier is not None:
        found["identifier"] = {"system": f"{OURS}:evidence", "value": identifier}
    if kind == "searchset":
        found["total"] = len(resources)
    return found
