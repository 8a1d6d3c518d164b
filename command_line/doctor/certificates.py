"""When the certificates of a PEM file end: the one field of X.509 that Python's ssl module tells only of peers."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of DER.
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0
_LONG_FORM = 0x80
# RFC 5280: two-digit years from 50 on are of the last century.
_CENTURY_BREAK = 50


def ends_of(pem: bytes) -> list[datetime]:
    """The end of each certificate, in the order of the file.

    Raises:
        ValueError: the file has no certificate, or one that is none.
    """
    found = [_end(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in _PEM.findall(pem)]
    if not found:
        msg = "it holds no PEM certificate"
        raise ValueError(msg)
    return found


def _end(der: bytes) -> datetime:
    """Certificate: a sequence whose first element holds version (may be absent), serial, algorithm, issuer, validity, …"""
    try:
        certificate = _content(der, _SEQUENCE)
        elements = list(_elements(_content(certificate, _SEQUENCE)))
        if elements[0][0] == _VERSION:
            elements = elements[1:]
        serial, _algorithm, _issuer, validity = elements[:4]
        if serial[0] != _INTEGER or validity[0] != _SEQUENCE:
            msg = "its certificate is not X.509"
            raise ValueError(msg)
        _begin, (tag, text) = _elements(validity[1])
        return _time(tag, text.decode("ascii"))
    except (IndexError, UnicodeDecodeError) as error:
        msg = "its certificate is cut short"
        raise ValueError(msg) from error


def _content(der: bytes, tag: int) -> bytes:
    """Of the first element, which must have this tag."""
    found, content = next(_elements(der), (None, b""))
    if found != tag:
        msg = "its certificate is not X.509"
        raise ValueError(msg)
    return content


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after the other. Raises IndexError where one is cut short."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & _LONG_FORM:
            count = length & ~_LONG_FORM
            length, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + length > len(der):
            raise IndexError
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:
        year = int(text[:2])
        text = f"{1900 + year if year >= _CENTURY_BREAK else 2000 + year}{text[2:]}"
    elif tag != _GENERALIZED_TIME:
        msg = "its certificate tells no time"
        raise ValueError(msg)
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
