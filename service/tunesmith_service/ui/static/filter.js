// The filter's text: taking a name's terms out of it and putting one in. The server reads and judges it.
"use strict";
(() => {
  // Words at the top level: not within parentheses or quotes.
  function words(text) {
    const found = [];
    let depth = 0;
    let quoted = false;
    let word = "";
    for (const ch of text) {
      if (ch === '"') quoted = !quoted;
      if (!quoted && ch === "(") depth += 1;
      if (!quoted && ch === ")") depth -= 1;
      if (!quoted && depth === 0 && /\s/.test(ch)) {
        if (word) found.push(word);
        word = "";
      } else word += ch;
    }
    if (word) found.push(word);
    return found;
  }
  const word = (text) => (/^[\w./+#%*-]+$/.test(text) && !text.startsWith("-") && !["OR", "AND", "NOT"].includes(text) ? text : `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);
  const isOf = (term, names) => names.some((name) => term.startsWith(`${word(name)}:`));

  // The text with the terms of these names replaced by one, or by none if it is empty.
  function withTerm(text, names, term) {
    const all = words(text);
    const kept = all.includes("OR") ? [`(${text})`] : all.filter((w) => !isOf(w, names));
    return [...kept, term].filter(Boolean).join(" ");
  }
  // What the one term of these names says: {ends: [low, high]} of a range, {words: […]} of a list.
  function range(text, names) {
    const term = words(text).find((w) => isOf(w, names));
    if (!term) return null;
    const value = term.slice(term.indexOf(":") + 1);
    const ends = value.includes("..") ? value.split("..").map((v) => (v === "" ? null : Number(v))) : [Number(value), Number(value)];
    return { ends: ends.some(Number.isNaN) ? null : ends, words: value.split(",").map((v) => v.replace(/^"(.*)"$/, "$1")) };
  }
  Tunesmith.filter = { word, withTerm, range };

  // --- the bar: what is typed stands in the address, and charts and table follow ---
  const bar = document.querySelector("[data-filter]");
  if (!bar) return;
  const input = bar.querySelector("input[name=filter]");
  const show = () => {
    if (document.activeElement !== input) input.value = Tunesmith.query.get("filter");
    for (const chip of bar.querySelectorAll("[data-term]")) chip.setAttribute("aria-pressed", String(words(Tunesmith.query.get("filter")).includes(chip.dataset.term)));
  };
  const ask = (text) => Tunesmith.query.set({ filter: text, after: "" });
  bar.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(input.value.trim());
  });
  input.addEventListener("change", () => ask(input.value.trim()));
  for (const chip of bar.querySelectorAll("[data-term]")) {
    chip.addEventListener("click", () => {
      const name = chip.dataset.term.split(":")[0];
      const isOn = chip.getAttribute("aria-pressed") === "true";
      ask(withTerm(Tunesmith.query.get("filter"), [name], isOn ? "" : chip.dataset.term));
    });
  }
  document.querySelector("[data-filter-clear]").addEventListener("click", () => {
    input.value = "";
    ask("");
  });
  document.body.addEventListener("asked", show);
  show();
})();
