// The one-time code rides behind the # of the link, which browsers send to nobody.
"use strict";
(() => {
  const form = document.querySelector("form[data-login]");
  function redeem() {
    const code = new URLSearchParams(location.hash.slice(1)).get("code");
    if (!code) return;
    history.replaceState(null, "", location.pathname);
    form.elements.code.value = code;
    form.requestSubmit();
  }
  window.addEventListener("hashchange", redeem); // the link opened in a tab that shows this page already
  redeem();
})();
