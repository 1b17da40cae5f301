"""Use as a FOCUS 1.2 dataset: the FinOps Open Cost and Usage Specification, https://focus.finops.org, of May 2025.

One row a day, tenant, key, model and kind of token. Prices are those of the price table: nobody has a discount, so
billed, effective, contracted and list cost are the same. `COLUMNS` are all that version 1.2 calls mandatory, those
conditional ones that apply to a service with list prices, and two of our own, which begin with `x_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from daulat.core.quota import Prices, shown

VERSION: Final = "1.2"
MANDATORY: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuer", "ListCost", "PricingQuantity", "PricingUnit", "Provider", "Publisher",
    "ServiceCategory", "ServiceName",
)  # fmt: skip
CONDITIONAL: Final = (
    "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory",
    "RegionId", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceId",
    "SubAccountId", "SubAccountName", "SubAccountType",
)  # fmt: skip
COLUMNS: Final = (*sorted((*MANDATORY, *CONDITIONAL)), "x_Requests", "x_Model")
UNIT: Final = "1000000 Tokens"
_METERS: Final = {"prompt": "Input tokens", "cached": "Cached input tokens", "completion": "Output tokens"}


def rows(
    used: Iterable[Mapping[str, Any]], prices: Prices, *, provider: str, region: str
) -> Iterator[dict[str, str | None]]:
    """The dataset. None is FOCUS' null.

    Args:
        used: by day, tenant, key, model: pseudonyms, with `tenant_name` and `key_name` where they are known; counts.
        provider: who runs the service.
        region: the country in which it computes, ISO 3166-1 alpha-2.
    """
    for row in used:
        price = prices.of(row["model"], row["day"])
        counts = {
            "prompt": row["prompt_tokens"] - row["cached_tokens"],
            "cached": row["cached_tokens"],
            "completion": row["completion_tokens"],
        }
        for kind, tokens in counts.items():
            if not tokens:
                continue
            each = getattr(price, kind)
            yield {
                **_charge(row, kind, shown(tokens * each), shown(each * 10**6)),
                "BillingCurrency": prices.currency,
                "PricingQuantity": shown(tokens * 10**6),
                "ConsumedQuantity": str(tokens),
                "InvoiceIssuer": provider,
                "Provider": provider,
                "Publisher": provider,
                "RegionId": region,
                "SkuPriceId": f"{row['model']}/{kind}/{price.since}",
            }


def _charge(row: Mapping[str, Any], kind: str, cost: str, each: str) -> dict[str, str | None]:
    day = datetime.fromisoformat(row["day"]).replace(tzinfo=UTC)
    month = day.replace(day=1)
    return {
        "BilledCost": cost,
        "BillingAccountId": row["tenant"],
        "BillingAccountName": row.get("tenant_name") or None,
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time((month + timedelta(days=31)).replace(day=1)),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{_METERS[kind]} of {row['model']}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(day),
        "ChargePeriodEnd": _time(day + timedelta(days=1)),
        "ConsumedUnit": "Tokens",
        "ContractedCost": cost,
        "ContractedUnitPrice": each,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ListUnitPrice": each,
        "PricingCategory": "Standard",
        "PricingUnit": UNIT,
        "ResourceId": row["model"],
        "ResourceName": row["model"],
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Daulat inference",
        "ServiceSubcategory": "Generative AI",
        "SkuId": f"{row['model']}/{kind}",
        "SkuMeter": _METERS[kind],
        "SubAccountId": row["key"],
        "SubAccountName": row.get("key_name") or None,
        "SubAccountType": "API key",
        "x_Requests": str(row["requests"]),
        "x_Model": row["model"],
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
