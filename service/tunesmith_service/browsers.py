"""Which browser, roughly, out of a User-Agent: in words of ours alone, whatever the header holds."""

from __future__ import annotations

UNKNOWN = "another browser"

_BROWSERS = (
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("HeadlessChrome/", "headless Chrome"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
)
"""The first that is found counts: most browsers also name those they descend from."""

_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def browser_of(user_agent: str) -> str:
    """
    >>> browser_of("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
    'Firefox on Linux'
    >>> browser_of("<script>"), browser_of("curl/8.5.0")
    ('another browser', 'another browser')
    """
    name = next((n for mark, n in _BROWSERS if mark in user_agent), UNKNOWN)
    system = next((n for mark, n in _SYSTEMS if mark in user_agent), "")
    return f"{name} on {system}" if system else name
