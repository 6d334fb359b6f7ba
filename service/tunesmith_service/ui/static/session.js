// A session that has ended leads to the login page, and from there back here. `refused` is what scripts say on
// `body` when an answer was 401, or a stream was closed for good.
"use strict";
(() => {
  const { body } = document;
  const { base } = body.dataset;
  const login = () => `${base}/login?to=${encodeURIComponent((location.pathname + location.search).slice(base.length + 1))}`;

  // What somebody has written must not be lost by leaving.
  function isTyped() {
    const fields = document.querySelectorAll("textarea, form[hx-post] input:not([type=hidden]), [popover] input");
    return [...fields].some((field) => field.value !== field.defaultValue);
  }
  function leave() {
    if (!isTyped()) {
      location.assign(login());
      return;
    }
    const link = document.createElement("a");
    link.href = login();
    link.textContent = "log in";
    const toast = document.getElementById("toast");
    toast.replaceChildren("Your session has ended. What you have written is still here: copy it, then ", link, ".");
    toast.hidden = false;
  }

  let isAsking = false;
  async function ask() {
    if (isAsking) return;
    isAsking = true;
    try {
      const answer = await fetch(`${base}/session`);
      if (answer.ok && (await answer.json()).name === null) leave();
    } catch {
      // the server is away; whoever was refused tries again
    }
    isAsking = false;
  }
  body.addEventListener("refused", ask);
  document.addEventListener("visibilitychange", () => document.hidden || ask());
})();
