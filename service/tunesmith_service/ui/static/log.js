// Searching the end of a log: matches marked, other lines left out if asked, and kept so as new lines come.
"use strict";
(() => {
  const root = document.querySelector("[data-log]");
  if (!root) return;
  const [search, only, count] = ["search", "only", "count"].map((name) => root.querySelector(`[data-log-${name}]`));
  const MOST = 1000;
  let at = 0;
  let text = "";

  const pre = () => root.querySelector("pre.log");
  const marks = () => [...root.querySelectorAll("mark")];

  function point(scroll) {
    const found = marks();
    at = found.length ? (at + found.length) % found.length : 0;
    found.forEach((mark, i) => mark.classList.toggle("on", i === at));
    count.textContent = !search.value ? "" : found.length ? `${at + 1} of ${found.length}${found.length === MOST ? " or more" : ""}` : "no match";
    if (found.length && scroll) {
      const box = pre();
      box.scrollTop = found[at].offsetTop - box.offsetTop - box.clientHeight / 2;
    }
  }

  function show(scroll) {
    const box = pre();
    if (!box) return;
    const wanted = search.value.toLowerCase();
    if (!wanted) {
      box.textContent = text;
      count.textContent = "";
      return;
    }
    const lines = only.checked ? text.split("\n").filter((line) => line.toLowerCase().includes(wanted)).join("\n") : text;
    const lower = lines.toLowerCase();
    const parts = [];
    let from = 0;
    let marked = 0;
    for (let i = lower.indexOf(wanted); i >= 0 && marked < MOST; i = lower.indexOf(wanted, from)) {
      const mark = document.createElement("mark");
      mark.textContent = lines.slice(i, i + wanted.length);
      parts.push(lines.slice(from, i), mark);
      from = i + wanted.length;
      marked += 1;
    }
    box.replaceChildren(...parts, lines.slice(from));
    point(scroll);
  }

  const read = () => (text = pre() ? pre().textContent : "");
  read();
  search.addEventListener("input", () => {
    at = 0;
    show(true);
  });
  only.addEventListener("change", () => {
    at = 0;
    show(true);
  });
  function step(by) {
    at += by;
    point(true);
  }
  for (const button of root.querySelectorAll("[data-log-step]")) button.addEventListener("click", () => step(Number(button.dataset.logStep)));
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    step(event.shiftKey ? -1 : 1);
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (!root.contains(event.target)) return;
    read();
    if (search.value) show(false);
  });
})();
