"""Currencies of ISO 4217. Amounts are integers in the currency's minor unit, for example cents."""

DEFAULT_CURRENCY = "USD"

_CODES = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD
HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL
LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP
PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT
TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_CODES.split())

_ZERO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
_MINOR_DIGITS = dict.fromkeys(_ZERO_DIGITS.split(), 0) | dict.fromkeys(_THREE_DIGITS.split(), 3)


def minor_digits(currency: str) -> int:
    """Return the decimal digits of the currency's minor unit: 2 for USD, 0 for JPY."""
    return _MINOR_DIGITS.get(currency, 2)


def major_units(amount_minor: int, currency: str) -> float:
    """Return an amount as a number in the main unit, for tables and charts."""
    return amount_minor / float(10 ** minor_digits(currency))


def money_text(amount_minor: int, currency: str) -> str:
    """Return an amount with its currency, for example `1,234.50 USD`."""
    return f"{major_units(amount_minor, currency):,.{minor_digits(currency)}f} {currency}"
