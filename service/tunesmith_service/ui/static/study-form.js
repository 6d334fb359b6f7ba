// The form for a new study: rows to add and remove, and the focus where something is wrong.
"use strict";
(() => {
  const { body } = document;
  const form = () => document.querySelector("[data-form]");
  if (!form()) return; // nothing can be changed here

  function dress() {
    for (const button of form().querySelectorAll("[data-add]")) button.hidden = false;
  }
  function add(kind) {
    const list = document.getElementById(`${kind}-rows`);
    const numbers = [...list.querySelectorAll("input[name$='.name']")].map((el) => Number(el.name.split(".")[1]));
    const next = String(Math.max(-1, ...numbers) + 1);
    const row = document.getElementById(`${kind}-row`).content.firstElementChild.cloneNode(true);
    for (const el of [row, ...row.querySelectorAll("*")]) {
      for (const { name, value } of [...el.attributes]) {
        if (value.includes("ROW")) el.setAttribute(name, value.replace("ROW", name === "aria-label" ? String(Number(next) + 1) : next));
      }
    }
    list.append(row);
    row.querySelector("input").focus();
  }

  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-add], [data-remove]");
    if (!button) return;
    if (button.dataset.add) {
      add(button.dataset.add);
    } else {
      const row = button.closest(".row");
      const beside = row.nextElementSibling || row.previousElementSibling;
      row.remove();
      form().dispatchEvent(new Event("input", { bubbles: true }));
      if (beside) beside.querySelector("input").focus();
    }
  });
  body.addEventListener("change", (event) => {
    if (event.target.name && event.target.name.endsWith(".kind")) event.target.closest(".row").dataset.kind = event.target.value;
  });

  // A form that was refused comes back with what is wrong in it.
  body.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (event.detail.requestConfig.elt !== form() || !(xhr.getResponseHeader("content-type") || "").startsWith("text/html")) return;
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  });
  body.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target.id === "differences") return; // somebody is typing
    dress();
    const wrong = form().querySelector("[aria-invalid]");
    const result = form().querySelector("[data-result]");
    if (wrong) wrong.focus();
    else if (result) result.focus();
  });
  dress();
})();
