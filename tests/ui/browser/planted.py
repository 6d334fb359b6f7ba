"""What a document holds that could run, or hide it, as a browser built it. Of ours there is none."""

from __future__ import annotations

from typing import Any

PLANTED = """(root) => {
  const inside = (e) => (e.localName === "template" && e.content ? all(e.content) : []);
  const all = (node) => [...node.querySelectorAll("*")].flatMap((e) => [e, ...inside(e)]);
  const tags = /^(iframe|frame|object|embed|base|style|noscript|math|marquee|image|audio|video|source|xss)$/i;
  const calls = (a) => /alert.{0,3}[(`]/.test(a.value);
  const texts = new RegExp("^(id|for|name|title|value|placeholder|content|href|action|hx-get|hx-post"
    + "|aria-[a-z]+|data-[a-z-]+)$");
  const runs = /^\\s*(j\\s*a\\s*v\\s*a\\s*script|data:text|vbscript)/i;
  return all(root).flatMap((e) => [
    ...[...e.attributes].filter((a) => /^(on|hx-on)/.test(a.name) || (calls(a) && !texts.test(a.name)))
      .map((a) => `${e.tagName} ${a.name}`),
    ...["href", "src", "data", "action", "formaction", "xlink:href", "srcdoc", "hx-get", "hx-post"]
      .filter((name) => runs.test(e.getAttribute(name) || "")).map((name) => `${e.tagName} ${name}`),
    ...(tags.test(e.tagName) && !e.closest("svg") ? [e.tagName] : []),
    ...(e.tagName === "META" && e.httpEquiv === "refresh" ? ["refresh"] : []),
    ...(/^script$/i.test(e.tagName) && !e.src ? ["inline script"] : []),
  ]).concat(/^owned/.test(root.title || "") ? ["title"] : []);
}"""
"""A function of a document: words for what it finds. What people read may speak of `alert`, nothing else."""


def planted(page: Any) -> list[str]:
    """Of a page that stands in a browser."""
    found: list[str] = page.evaluate(f"({PLANTED})(document)")
    return found
