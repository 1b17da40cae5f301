"""FOCUS 1.2, column by column, as `specification/columns` of FOCUS_Spec has it at its tag v1.2."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from daulat.core.quota import prices
from daulat.metering.focus import COLUMNS, CONDITIONAL, MANDATORY, rows

PRICES = prices(
    'currency = "MYR"\n[[price]]\nsince = 2026-01-01\nprompt = "1.20"\ncached = "0.30"\ncompletion = "4.800001"\n'
)
USED: dict[str, Any] = {
    "day": "2026-11-28",
    "tenant": "tenant-pseudonym",
    "tenant_name": "ministry",
    "key": "key-pseudonym",
    "key_name": "",
    "model": "small",
    "requests": 3,
    "prompt_tokens": 1_000_001,
    "cached_tokens": 400_000,
    "completion_tokens": 7,
}
# Of the specification: name, may it be null, and what its values look like.
DECIMAL, TIME, TEXT = r"-?\d+(\.\d+)?", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r".+"
SPECIFIED: dict[str, tuple[bool, str]] = {
    "BilledCost": (False, DECIMAL),
    "BillingAccountId": (False, TEXT),
    "BillingAccountName": (True, TEXT),
    "BillingCurrency": (False, r"[A-Z]{3}"),
    "BillingPeriodEnd": (False, TIME),
    "BillingPeriodStart": (False, TIME),
    "ChargeCategory": (False, "Usage|Purchase|Tax|Credit|Adjustment"),
    "ChargeClass": (True, "Correction"),
    "ChargeDescription": (True, TEXT),
    "ChargePeriodEnd": (False, TIME),
    "ChargePeriodStart": (False, TIME),
    "ContractedCost": (False, DECIMAL),
    "EffectiveCost": (False, DECIMAL),
    "InvoiceIssuer": (False, TEXT),
    "ListCost": (False, DECIMAL),
    "PricingQuantity": (True, DECIMAL),
    "PricingUnit": (True, r"\d+ Tokens"),
    "Provider": (False, TEXT),
    "Publisher": (False, TEXT),
    "ServiceCategory": (False, "AI and Machine Learning"),
    "ServiceName": (False, TEXT),
}


@pytest.fixture
def made() -> list[dict[str, str | None]]:
    return list(rows([USED], PRICES, provider="ai.example.my", region="MY"))


def test_every_mandatory_column_is_there_and_of_its_form(made: list[dict[str, str | None]]) -> None:
    assert set(SPECIFIED) == set(MANDATORY)
    assert len(MANDATORY) == 21
    assert len(made) == 3
    for row in made:
        assert set(row) == set(COLUMNS)
        for name, (nullable, form) in SPECIFIED.items():
            value = row[name]
            assert value is not None or nullable, name
            assert value is None or re.fullmatch(form, value), (name, value)
        assert "" not in row.values(), "null is no empty text"


def test_names_are_the_specifications_and_our_own_come_last() -> None:
    assert list(COLUMNS[:-2]) == sorted([*MANDATORY, *CONDITIONAL])
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", name) for name in COLUMNS[:-2])
    assert all(name.startswith("x_") for name in COLUMNS[-2:])


def test_quantity_times_unit_price_is_the_cost_to_the_last_digit(made: list[dict[str, str | None]]) -> None:
    for row in made:
        quantity, price = Decimal(row["PricingQuantity"] or ""), Decimal(row["ListUnitPrice"] or "")
        assert quantity * price == Decimal(row["ListCost"] or "")
        assert quantity * 10**6 == Decimal(row["ConsumedQuantity"] or "")
        assert row["ListCost"] == row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"]
        assert row["ListUnitPrice"] == row["ContractedUnitPrice"]
    by = {row["SkuMeter"]: row for row in made}
    assert by["Input tokens"]["ConsumedQuantity"] == "600001", "without those from a cache"
    assert by["Output tokens"]["ListCost"] == "0.000033600007"


def test_periods_are_the_day_and_its_month(made: list[dict[str, str | None]]) -> None:
    assert made[0]["ChargePeriodStart"] == "2026-11-28T00:00:00Z"
    assert made[0]["ChargePeriodEnd"] == "2026-11-29T00:00:00Z"
    assert (made[0]["BillingPeriodStart"], made[0]["BillingPeriodEnd"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    (last,) = rows(
        [{**USED, "day": "2026-12-31", "prompt_tokens": 0, "cached_tokens": 0}], PRICES, provider="p", region="MY"
    )
    assert last["BillingPeriodEnd"] == last["ChargePeriodEnd"] == "2027-01-01T00:00:00Z"


def test_what_was_not_used_is_no_charge() -> None:
    nothing = {**USED, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
    assert list(rows([nothing], PRICES, provider="p", region="MY")) == []
