// The one-time code rides behind the # of the link, which browsers send to nobody. Who is logged in already goes
// on at once: links from elsewhere come without the cookie, which is for our own pages alone.
"use strict";
(() => {
  const form = document.querySelector("form[data-login]");
  const known = document.querySelector("[data-known]");

  async function whose() {
    try {
      const answer = await fetch(form.dataset.session);
      return answer.ok ? (await answer.json()).name : null;
    } catch {
      return null;
    }
  }
  function take() {
    const code = new URLSearchParams(location.hash.slice(1)).get("code");
    if (code) {
      history.replaceState(null, "", location.pathname + location.search);
      form.elements.code.value = code;
    }
    return Boolean(code);
  }
  // Somebody else's link must not log a person in as another without a word.
  async function begin() {
    const hasCode = take();
    const name = await whose();
    if (name === null) {
      if (hasCode) form.requestSubmit();
    } else if (hasCode || form.elements.code.value) {
      known.querySelector("b").textContent = name;
      known.hidden = false;
    } else if (!form.parentElement.querySelector("[role=alert]")) {
      location.replace(known.querySelector("a").href);
    }
  }
  window.addEventListener("hashchange", begin); // the link opened in a tab that shows this page already
  document.addEventListener("visibilitychange", () => document.hidden || begin()); // logged in in another tab
  begin();
})();
