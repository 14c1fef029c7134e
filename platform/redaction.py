"""Passwords and keys, taken out of whatever is logged or printed: what is logged is kept for years and shown to others.

Three things are known for secrets: the password of an address (`postgresql://user:PASSWORD@host`), the value of an
environment variable whose name says so (`HF_TOKEN`), and text in the form of a key that some service gives out or
that code gives such a name. A secret of another kind is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "[redacted]"
# Every repetition below has an end: what is searched may have been written to make the search long.

SHORTEST = 8  # characters of a variable's value: a shorter one would be found in innocent words

_SECRET_NAME = re.compile(
    r"PASSW|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|API_?KEY|(ACCESS|PRIVATE|ENCRYPTION|SIGNING)_KEY", re.I
)
_NO_SECRET = re.compile(r"_(FILE|PATH|DIR|SOCK|MODE|TYPE|URL|URI|HOST|PORT)$", re.I)

_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)([^\s/@:'\"]{0,200}):(?!\d+(?:[/?#]|$))[^\s@'\"]{1,300}@", re.I)
_BARE_USER = re.compile(
    r"\b(https?://)[^\s/@:'\"]{1,300}@", re.I
)  # a token in the place of the name; ssh has names there
_QUERY = re.compile(r"([?&;](?:password|passwd|pwd|token|access_token|api_key|secret|sig)=)[^\s&;'\"]+", re.I)
_KEYS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}"
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,2000}\.[\w-]{10,2000})"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_NAMES = ("passw", "passphrase", "secret", "apikey", "api_key", "accesskey", "access_key", "private", "token")
_ASSIGNED = re.compile(  # in code, quoted
    r"(\b\w{0,40}(?:password|passwd|passphrase|secret|api_?key|access_?key|private_?key|auth_?token)\w{0,40}['\"]?"
    r"[ \t]{0,20}[:=][ \t]{0,20})(['\"])[^'\"\n]{4,1000}\2",
    re.I,
)
_EXPORTED = re.compile(  # in a file of environment variables
    r"^([+-]?[ \t]{0,20}(?:export )?[A-Z0-9_]{0,60}"
    r"(?:PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|PRIVATE_KEY)\w{0,60}=)\S+",
    re.M,
)


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with `[redacted]` in the place of each secret that is known as one.

    Args:
        environment: whose values are looked for; that of this process by default.
    """
    for value in _secret_values(os.environ if environment is None else environment):
        text = text.replace(value, HIDDEN)
    if "://" in text:
        text = _ADDRESS.sub(rf"\1\2:{HIDDEN}@", text)
        text = _BARE_USER.sub(rf"\1{HIDDEN}@", text)
    text = _KEYS.sub(HIDDEN, text)
    if any(name in text.lower() for name in _NAMES) or "sig=" in text or "pwd=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
        text = _ASSIGNED.sub(rf"\1\2{HIDDEN}\2", text)
        text = _EXPORTED.sub(rf"\1{HIDDEN}", text)
    return _PRIVATE_KEY.sub(HIDDEN, text) if "PRIVATE KEY" in text else text


def holds_password(address: str) -> bool:
    """Whether an address has a password in it, or a token in the place of a user's name."""
    return any(pattern.search(address) for pattern in (_ADDRESS, _BARE_USER, _QUERY))


def _secret_values(environment: Mapping[str, str]) -> list[str]:
    """The longest first: one may hold another."""
    found = {
        value
        for name, value in environment.items()
        if len(value) >= SHORTEST and _SECRET_NAME.search(name) and not _NO_SECRET.search(name)
    }
    return sorted(found, key=len, reverse=True)
