"""Record Access Control Point (2A52): ask a meter for its stored records, count, delete, abort.

The filter of a request is the sequence number (Glucose), the user-facing time (Glucose), or the minutes since the session's start (CGM).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from vitals.errors import DecodeError
from vitals.gatt.fields import Reader, unsigned


class Op(IntEnum):
    REPORT = 1
    DELETE = 2
    ABORT = 3
    COUNT = 4
    COUNT_RESPONSE = 5
    RESPONSE = 6


class Operator(IntEnum):
    NULL = 0
    ALL = 1
    LESS_OR_EQUAL = 2
    GREATER_OR_EQUAL = 3
    RANGE = 4
    FIRST = 5
    LAST = 6


class Answer(IntEnum):
    """Response codes."""

    SUCCESS = 1
    OP_NOT_SUPPORTED = 2
    INVALID_OPERATOR = 3
    OPERATOR_NOT_SUPPORTED = 4
    INVALID_OPERAND = 5
    NO_RECORDS = 6
    ABORT_UNSUCCESSFUL = 7
    NOT_COMPLETED = 8
    OPERAND_NOT_SUPPORTED = 9


_OPS = {
    1: "report stored records", 2: "delete stored records", 3: "abort operation", 4: "report number of stored records",
    5: "number of stored records response", 6: "response",
}  # fmt: skip
_OPERATORS = ("null", "all records", "less than or equal to", "greater than or equal to", "within range of", "first record", "last record")
_ANSWERS = {
    1: "success", 2: "op code not supported", 3: "invalid operator", 4: "operator not supported", 5: "invalid operand",
    6: "no records found", 7: "abort unsuccessful", 8: "procedure not completed", 9: "operand not supported",
}  # fmt: skip
SEQUENCE, USER_TIME = 1, 2
PROCEDURE_IN_PROGRESS, CCCD_NOT_CONFIGURED = 0x80, 0xFD  # ATT errors


@dataclass(frozen=True, slots=True)
class RecordAccess:
    """One request or response; operand keeps its bytes, because their meaning depends on `op` and filter."""

    op: int
    operator: int = Operator.NULL
    operand: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> RecordAccess:
        reader = Reader(data, "record_access")
        op, operator = reader.unsigned(), reader.unsigned()
        operand = reader.rest()
        needed = {Op.COUNT_RESPONSE: 2, Op.RESPONSE: 2}.get(op)  # type: ignore[call-overload]
        if op not in _OPS:
            raise DecodeError("record_access_op", str(op))
        if needed is not None and len(operand) != needed:
            raise DecodeError("record_access_length", f"{len(data)} bytes, {2 + needed} expected")
        if len(operand) > 15:  # a filter and two times are the longest
            raise DecodeError("record_access_length", f"{len(data)} bytes")
        return cls(op, operator, operand)

    def __bytes__(self) -> bytes:
        return bytes((self.op, self.operator)) + self.operand

    @classmethod
    def report_all(cls) -> RecordAccess:
        return cls(Op.REPORT, Operator.ALL)

    @classmethod
    def report_from(cls, number: int) -> RecordAccess:
        """Every record from `number` (sequence, or minutes for a CGM) on."""
        return cls(Op.REPORT, Operator.GREATER_OR_EQUAL, unsigned(SEQUENCE) + unsigned(number, 2))

    @classmethod
    def abort(cls) -> RecordAccess:
        return cls(Op.ABORT, Operator.NULL)

    @classmethod
    def response(cls, to: int, answer: Answer) -> RecordAccess:
        return cls(Op.RESPONSE, Operator.NULL, bytes((to, answer)))

    def answer(self) -> tuple[int, int] | None:
        """(request's op, response code) of a response, else None."""
        return (self.operand[0], self.operand[1]) if self.op == Op.RESPONSE else None

    def not_a_reading(self) -> list[str]:
        return ["control_point"]

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "op": _OPS[self.op],
            "operator": _OPERATORS[self.operator] if self.operator < len(_OPERATORS) else "reserved",
        }
        answer = self.answer()
        if answer is not None:
            found |= {"request_op": _OPS.get(answer[0], "reserved"), "response": _ANSWERS.get(answer[1], "reserved")}
        elif self.op == Op.COUNT_RESPONSE:
            found["count"] = int.from_bytes(self.operand, "little")
        elif self.operand:
            numbers = self.operand[1:]
            found["filter"] = {SEQUENCE: "sequence number", USER_TIME: "user facing time"}.get(self.operand[0], "reserved")
            if self.operand[0] == SEQUENCE and len(numbers) in (2, 4):
                found["numbers"] = [int.from_bytes(numbers[at : at + 2], "little") for at in range(0, len(numbers), 2)]
        return found
