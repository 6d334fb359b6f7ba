// The one-time code rides behind the # of the link, which browsers send to nobody.
"use strict";
(() => {
  const form = document.querySelector("form[data-login]");
  const code = new URLSearchParams(location.hash.slice(1)).get("code") || new URLSearchParams(location.search).get("code");
  if (!form || !code) return;
  history.replaceState(null, "", location.pathname);
  form.elements.code.value = code;
  form.requestSubmit();
})();
