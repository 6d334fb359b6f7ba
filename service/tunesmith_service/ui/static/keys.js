// The lines of a chart by name below it, each a way to its trial: Tunesmith.keys(ctx, label, lines), where a line
// has {colour, dashed, href, name, about, value, number, faded}; `number` is the trial that it lights.
"use strict";
(() => {
  const { light } = Tunesmith;

  function item(line) {
    const found = document.createElement("li");
    if (line.faded) found.className = "faded";
    const mark = document.createElement("span");
    mark.className = line.dashed ? "line dashed" : "line";
    mark.style.borderTopColor = line.colour;
    const link = document.createElement("a");
    link.href = line.href;
    link.textContent = line.name;
    const about = document.createElement("span");
    about.className = "soft";
    about.textContent = line.about;
    about.title = line.about;
    const value = document.createElement("span");
    value.className = "value";
    value.textContent = line.value;
    found.append(mark, link, about, value);
    found.addEventListener("mouseenter", () => light(line.number));
    found.addEventListener("mouseleave", () => light(null));
    link.addEventListener("focus", () => light(line.number));
    link.addEventListener("blur", () => light(null));
    return found;
  }

  Tunesmith.keys = (ctx, label, lines) => {
    let list = ctx.root.querySelector(".keys");
    if (!list) {
      list = document.createElement("ul");
      list.className = "keys";
      list.setAttribute("aria-label", label);
      ctx.root.querySelector(".said").before(list);
    }
    const held = list.contains(document.activeElement) ? document.activeElement.textContent : null;
    list.hidden = !lines.length;
    list.replaceChildren(...lines.map(item));
    for (const link of list.querySelectorAll("a")) if (link.textContent === held) link.focus();
  };
})();
