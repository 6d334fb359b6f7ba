// A form that is sent before htmx is there would go out as an address, and what was typed be lost: it waits.
"use strict";
(() => {
  let held = null;
  function hold(event) {
    if (!event.target.hasAttribute("hx-post")) return;
    event.preventDefault();
    held = event;
  }
  document.addEventListener("submit", hold, true);
  document.addEventListener("DOMContentLoaded", () => {
    setTimeout(() => { // htmx waits for the same event, and was told later
      document.removeEventListener("submit", hold, true);
      if (held) held.target.requestSubmit(held.submitter);
    });
  });
})();
