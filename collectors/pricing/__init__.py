"""What a record costs at list price: a dated book, matched exactly or by rule, else unknown.

Order of sources: the user's price file, the pinned genai-prices table with the shipped supplement,
else *unpriced* (`None`), never 0 and never the price of a similar model. Everything the rest of
the program needs is here: `PriceBook(...).tariff(attributes, timestamp_ms).cost(...)`.
"""

from __future__ import annotations

from collectors.pricing.book import PriceBook, PriceRow
from collectors.pricing.overrides import PriceFileError
from collectors.pricing.schedule import PriceAttributes
from collectors.pricing.tariff import Cost, Tariff

__all__ = ["Cost", "PriceAttributes", "PriceBook", "PriceFileError", "PriceRow", "Tariff"]
