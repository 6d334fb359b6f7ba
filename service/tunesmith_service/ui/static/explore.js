// The table of Explore: columns, differences only, and links that change the address without a new page.
"use strict";
(() => {
  const card = document.getElementById("trials");
  const { query, light } = Tunesmith;

  card.addEventListener("change", (event) => {
    if (event.target.matches("[data-differ]")) query.set({ differ: event.target.checked ? "1" : "" });
    if (event.target.matches("[data-column]")) {
      const on = [...card.querySelectorAll("[data-column]:checked")].map((box) => box.value);
      const now = query.get("columns").split(",").filter((name) => on.includes(name));
      query.set({ columns: [...now, ...on.filter((name) => !now.includes(name))].join(",") });
    }
  });
  card.addEventListener("click", (event) => {
    const link = event.target.closest("thead a, .pager a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const asked = new URLSearchParams(link.search);
    query.set({ sort: asked.get("sort") || "", after: asked.get("after") || "" });
  });
  // Choosing columns goes on while the table is fetched.
  let open = false;
  card.addEventListener("htmx:beforeSwap", () => {
    open = card.querySelector(".columns")?.open ?? false;
  });
  card.addEventListener("htmx:afterSwap", () => {
    const columns = card.querySelector(".columns");
    if (columns) columns.open = open;
  });
  // Selected trials stand in the address, so that a link has them too; charts need not be drawn again for them.
  const MOST_PICKED = 20;
  const bar = document.querySelector(".picked");
  const picked = () => query.get("pick").split(",").filter((n) => /^\d+$/.test(n)).map(Number);
  function pick(numbers) {
    const words = new URLSearchParams(location.search);
    if (numbers.length) words.set("pick", numbers.slice(0, MOST_PICKED).join(","));
    else words.delete("pick");
    history.replaceState(history.state, "", `${location.pathname}${words.size ? `?${words}` : ""}${location.hash}`);
    showPicked();
  }
  function showPicked() {
    const now = picked();
    bar.hidden = !now.length;
    bar.querySelector("[data-picked]").textContent = `${now.length} selected${now.length < MOST_PICKED ? "" : ", which is as many as can be"}`;
    for (const input of bar.querySelectorAll("[data-numbers]")) input.value = now.join(",");
    const compare = bar.querySelector("[data-compare]");
    if (compare) compare.href = `${compare.dataset.compare}?trials=${now.map((n) => `${bar.dataset.study}:${n}`).join(",")}`;
    const curves = bar.querySelector("[data-picked-curves]");
    curves.href = `${curves.dataset.pickedCurves}?pick=${now.join(",")}#curves`;
    const boxes = [...card.querySelectorAll("[data-pick]")];
    for (const box of boxes) box.checked = now.includes(Number(box.dataset.pick));
    const all = document.getElementById("pick-all");
    if (!all) return;
    all.checked = boxes.length > 0 && boxes.every((box) => box.checked);
    all.indeterminate = !all.checked && boxes.some((box) => box.checked);
  }
  card.addEventListener("change", (event) => {
    const here = [...card.querySelectorAll("[data-pick]")].map((box) => Number(box.dataset.pick));
    if (event.target.id === "pick-all") {
      const others = picked().filter((n) => !here.includes(n));
      pick(event.target.checked ? [...others, ...here] : others);
    } else if (event.target.dataset.pick) {
      const number = Number(event.target.dataset.pick);
      pick(event.target.checked ? [...picked(), number] : picked().filter((n) => n !== number));
    }
  });
  bar.querySelector("[data-only]").addEventListener("click", () => query.set({ filter: `number:${picked().join(",")}`, after: "" }));
  bar.querySelector("[data-unpick]").addEventListener("click", () => pick([]));
  card.addEventListener("htmx:afterSettle", showPicked);
  showPicked();

  // Whoever looks at a row sees its trial in every chart.
  card.addEventListener("mouseover", (event) => {
    const row = event.target.closest("tr[data-trial]");
    if (row) light(Number(row.dataset.trial));
  });
  card.addEventListener("mouseleave", () => light(null));
})();
