// The theme, before the first paint: what the address says, else what was chosen here, else the system's.
"use strict";
(() => {
  const asked = new URLSearchParams(location.search).get("theme");
  let theme = asked;
  try {
    theme = asked || localStorage.getItem("tunesmith-theme");
  } catch {
    // no storage in this browser: the system's theme
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
