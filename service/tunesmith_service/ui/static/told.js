// What a trial is in words: in every chart's tooltip, and pinned below a chart by a click with Shift, to be kept and copied.
"use strict";
(() => {
  const { number, trialHref, light } = Tunesmith;
  const known = new Map(); // promises by number; a trial that still runs is asked for again on the next page

  function fetched(n) {
    if (!known.has(n)) {
      const url = `${trialHref(n)}/views/told`;
      known.set(n, fetch(url, { headers: { accept: "application/json" } }).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null));
    }
    return known.get(n);
  }
  const params = (told) => told.params.map(([name, value]) => `${name} ${value}`);

  // `short` is what the chart says by itself; what it says already is not said twice.
  Tunesmith.told = (n, short, done) => {
    if (n === undefined) return short;
    fetched(n).then((told) => {
      if (!told) return;
      const more = params(told).filter((line) => !short.includes(line));
      const about = short.includes(told.stage) ? [] : [`${told.stage}, ${told.state}`];
      done([short, ...about, ...more].join("\n"));
    });
    return short;
  };

  function button(text, act) {
    const found = document.createElement("button");
    found.type = "button";
    found.textContent = text;
    found.addEventListener("click", act);
    return found;
  }
  Tunesmith.pin = async (ctx, n) => {
    const told = await fetched(n);
    let list = ctx.root.querySelector(".pins");
    if (!told || (list && list.querySelector(`[data-pinned="${n}"]`))) return;
    if (!list) {
      list = document.createElement("ul");
      list.className = "pins";
      list.setAttribute("aria-label", "Pinned trials");
      ctx.root.querySelector(".said").before(list);
    }
    const item = document.createElement("li");
    item.dataset.pinned = String(n);
    const link = document.createElement("a");
    link.href = trialHref(n);
    link.textContent = `#${n}`;
    const value = told.value === null ? told.reason || told.state : `${told.metric} ${number(told.value)}`;
    const text = [told.stage, value, ...params(told)].join(", ");
    const copy = button("copy", () => navigator.clipboard.writeText(`#${n} ${text}`).then(() => { copy.textContent = "copied"; }, () => {}));
    item.append(link, ` ${text} `, copy, button("unpin", () => item.remove()));
    item.addEventListener("mouseenter", () => light(n));
    item.addEventListener("mouseleave", () => light(null));
    list.append(item);
  };
})();
