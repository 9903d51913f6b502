"""Checks of identifiers: checksums and ranges of card numbers, IBANs, IP addresses and national ids.

A check decides whether a string of the right form is an identifier; a random number of the same form seldom passes.
"""

from __future__ import annotations

import ipaddress
import re

_NOT_DIGIT = re.compile(r"[^0-9]")


def digits_of(text: str) -> list[int]:
    """Return the decimal digits of a text."""
    return [int(digit) for digit in _NOT_DIGIT.sub("", text)]


def has_luhn_checksum(digits: list[int]) -> bool:
    """Return True if the sum of the digits, every second one doubled, ends in 0 (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def is_card_number(text: str) -> bool:
    """Return True for a payment card number: a valid Luhn checksum, not one digit only, and no number of a product.

    Numbers of products (GTIN) have 12 or 13 digits, and a tenth of them have a valid Luhn checksum.
    """
    digits = digits_of(text)
    if len(digits) in (12, 13) and has_gtin_checksum(text):
        return False
    return len(set(digits)) > 1 and has_luhn_checksum(digits)


def has_gtin_checksum(text: str) -> bool:
    """Return True if the sum of the digits, every second one times 3, ends in 0 (GS1: GTIN and EAN-13)."""
    digits = digits_of(text)
    return (sum(digits[::-2]) + 3 * sum(digits[-2::-2])) % 10 == 0


def is_iban(text: str) -> bool:
    """Return True if an IBAN of the right length has the remainder 1 modulo 97 (ISO 13616-1)."""
    compact = re.sub(r"[^A-Za-z0-9]", "", text).upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Country code -> number of characters of an IBAN, from the IBAN registry."""


def is_public_address(text: str) -> bool:
    """Return True for an IP address of the public internet that is not likely a version or section number.

    Four numbers below 32 are a version ("4.18.0.25") more often than an address, of which they are 1 in 4096.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 4 and max(address.packed) < 32:
        return False
    return address.is_global and not address.is_multicast


def is_us_social_security_number(text: str) -> bool:
    """Return True if no group has a value that is never issued: 000, 666 or 900 to 999, then 00, then 0000."""
    digits = _NOT_DIGIT.sub("", text)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_brazilian_cpf(text: str) -> bool:
    """Return True if the last two of the 11 digits are the weighted sums of the digits before, modulo 11."""
    digits = digits_of(text)
    for length in (9, 10):
        remainder = sum(digit * weight for digit, weight in zip(digits, range(length + 1, 1, -1), strict=False)) % 11
        if digits[length] != (0 if remainder < 2 else 11 - remainder):
            return False
    return len(set(digits)) > 1


def is_chinese_resident_id(text: str) -> bool:
    """Return True if the last of the 18 characters is the check character (GB 11643, ISO 7064 mod 11-2)."""
    total = sum(int(digit) * pow(2, 17 - position, 11) for position, digit in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def is_spanish_id(text: str) -> bool:
    """Return True if the letter of a DNI or NIE is that of its number modulo 23."""
    compact = text.replace("-", "").upper()
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def is_french_social_security_number(text: str) -> bool:
    """Return True if the last two of the 15 digits are 97 minus the others modulo 97 (Corsica: 2A is 19, 2B is 18)."""
    compact = re.sub(r"[ .]", "", text).upper().replace("2A", "19").replace("2B", "18")
    return len(compact) == 15 and 97 - int(compact[:13]) % 97 == int(compact[13:])


def is_italian_tax_code(text: str) -> bool:
    """Return True if the last of the 16 characters is the check letter of the others."""
    odd = "BAKPLCQDREVOSFTGUHMINJWZYX"
    total = 0
    for position, character in enumerate(text[:15]):
        value = int(character) if character.isdigit() else ord(character) - 65
        total += odd.index(chr(65 + value)) if position % 2 == 0 else value
    return chr(65 + total % 26) == text[15]


def is_canadian_sin(text: str) -> bool:
    """Return True for a social insurance number: 9 digits with a Luhn checksum, of which the first is not 0 or 8."""
    digits = digits_of(text)
    return digits[0] not in (0, 8) and has_luhn_checksum(digits)


def is_polish_pesel(text: str) -> bool:
    """Return True if the weighted sum of the 11 digits ends in 0."""
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)
    return sum(digit * weight for digit, weight in zip(digits_of(text), weights, strict=True)) % 10 == 0


def is_german_tax_number(text: str) -> bool:
    """Return True if the last of the 11 digits is the check digit of the others (ISO 7064 mod 11,10)."""
    *digits, check = digits_of(text)
    product = 10
    for digit in digits:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == check


def is_dutch_bsn(text: str) -> bool:
    """Return True if the sum of the 9 digits times 9 to 2 and -1 is a multiple of 11."""
    digits = digits_of(text)
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return any(digits) and sum(digit * weight for digit, weight in zip(digits, weights, strict=True)) % 11 == 0


def is_swedish_personal_number(text: str) -> bool:
    """Return True if the last 10 digits, without the century, begin with a month and day and have a Luhn checksum."""
    digits = digits_of(text)[-10:]
    month, day = 10 * digits[2] + digits[3], 10 * digits[4] + digits[5]
    return 1 <= month <= 12 and 1 <= day <= 91 and has_luhn_checksum(digits)  # a coordination number adds 60 to the day


def is_indian_aadhaar(text: str) -> bool:
    """Return True if the 12 digits have a valid Verhoeff checksum: their permuted product in D5 is the identity."""
    check = 0
    for position, digit in enumerate(reversed(digits_of(text))):
        for _ in range(position % 8):
            digit = _VERHOEFF_PERMUTATION[digit]
        check = _multiply_in_d5(check, digit)
    return check == 0


_VERHOEFF_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _multiply_in_d5(first: int, second: int) -> int:
    """Multiply two elements of the dihedral group of order 10: 0 to 4 are rotations, 5 to 9 reflections."""
    rotation = (first + second) % 5 if first < 5 else (first - second) % 5
    return rotation + 5 * ((first < 5) != (second < 5))
