// The list of studies: what can be done with one is fetched, then shown.
"use strict";
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id === "menu") event.detail.target.showPopover();
});
