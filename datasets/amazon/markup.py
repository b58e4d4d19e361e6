"""Text of the product pages that the Amazon crawls were taken from, without their markup.

Titles and descriptions hold tags, whole or cut off at either end, and now and then a piece of the page's script or
style sheet. None of that is text.
"""

import html
import re

# Names after which an open "<" is markup even without an attribute: elsewhere it may be "less than" or a heart.
_TAGS = (
    "a|abbr|b|big|body|br|button|center|cite|code|dd|div|dl|dt|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|kbd|label|"
    "li|link|meta|nobr|noscript|object|ol|option|p|pre|s|script|section|select|small|span|strike|strong|style|sub|sup|"
    "table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul"
)
_MARKUP = re.compile(
    rf"""
    <!--.*?(?:-->|$)                                       # a comment, closed or not
    | <(script|style)\b.*?(?:</\1\s*>|$)                   # a script or style sheet with what it holds
    | </?[a-z!?](?:[^<>"']|"[^"<]*"|'[^'<]*')*+>           # a tag; values in quotes may hold ">"
    | </?[a-z!?][^<>]*> | </>                              # a tag with quotes that do not match
    | </?(?:{_TAGS})(?=[\s/]|$)[^<>]*                      # a known tag that is not closed
    | <[a-z][\w:-]*\s+[\w:-]+\s*=[^<>]*                    # any tag with an attribute that is not closed
    | ^[^<>]*=\s*["'][^"'<>]*["']\s*/?>                    # the end of a tag whose beginning is cut off
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
# Pieces of the page's program that stand without their tags.
_CODE = re.compile(r"\.getTime\(\)|\bfunction\s*\(|\bvar\s+\w+\s*=|[.#][\w-]+\s*\{[^{}]*:[^{}]*\}")
_BLANKS = re.compile(r"\s+")
_ROUNDS = 3


def clean(text: str) -> str:
    """Text without markup, entities resolved, blanks single; "" where no letter and no digit is left, and for code."""
    for _ in range(_ROUNDS):
        # Entities are resolved first: some titles hold escaped markup, and some are escaped twice.
        plain = _MARKUP.sub(" ", html.unescape(text))
        if plain == text:
            break
        text = plain
    if _CODE.search(text):
        return ""
    return _BLANKS.sub(" ", text).strip() if any(map(str.isalnum, text)) else ""
