// What is sent, pressed or typed before the scripts are there would go out as an address or do nothing: it waits.
"use strict";
(() => {
  const BUTTONS = "button[hx-get], button[hx-post], button[type=button]:not([popovertarget])";
  let sent = null;
  let pressed = null;
  let typed = null;
  const holds = {
    submit(event) {
      if (!event.target.hasAttribute("hx-post")) return;
      event.preventDefault();
      sent = event;
    },
    click(event) {
      const button = event.target.closest(BUTTONS);
      if (!button) return;
      event.preventDefault();
      pressed = button;
    },
    input(event) {
      typed = event.target;
    },
  };
  for (const [name, hold] of Object.entries(holds)) document.addEventListener(name, hold, true);
  document.addEventListener("DOMContentLoaded", () => {
    setTimeout(() => { // htmx waits for the same event, and was told later
      for (const [name, hold] of Object.entries(holds)) document.removeEventListener(name, hold, true);
      if (typed) typed.dispatchEvent(new Event("input", { bubbles: true }));
      if (pressed) pressed.click();
      if (sent) sent.target.requestSubmit(sent.submitter);
    });
  });
})();
