// What every page does: local times, full values on copy, and one live stream a tab.
"use strict";
(() => {
  const body = document.body;

  // --- times: the server writes UTC, people read their own ---
  function localTimes(root) {
    const today = new Date().toDateString();
    for (const el of root.querySelectorAll("time[datetime]")) {
      const at = new Date(el.dateTime);
      const minutes = { hour: "2-digit", minute: "2-digit" };
      el.textContent = at.toDateString() === today
        ? at.toLocaleTimeString(undefined, { ...minutes, second: "2-digit" })
        : at.toLocaleString(undefined, { day: "numeric", month: "short", ...minutes });
      el.title = `${at.toLocaleString()} (${el.dateTime})`;
    }
  }
  // A log shows its end.
  function tails(root) {
    for (const el of root.querySelectorAll("[data-tail]")) el.scrollTop = el.scrollHeight;
  }
  function dress(root) {
    localTimes(root);
    tails(root);
  }
  dress(document);
  body.addEventListener("htmx:afterSettle", (event) => dress(event.detail.target.parentNode || document));

  // --- a number copied by itself is copied in full ---
  document.addEventListener("copy", (event) => {
    const selection = document.getSelection();
    const at = selection.anchorNode && selection.anchorNode.parentElement;
    const figure = at && at.closest("data.num");
    if (figure && selection.toString().trim() === figure.textContent) {
      event.clipboardData.setData("text/plain", figure.value);
      event.preventDefault();
    }
  });

  // --- light, dark, or what the system says; the address may say it too, so that a link shows the same ---
  const THEMES = ["", "light", "dark"];
  const toggle = document.querySelector("[data-theme-toggle]");
  function nameTheme() {
    if (toggle) toggle.textContent = `${document.documentElement.dataset.theme || "system"} theme`;
  }
  nameTheme();
  if (toggle) toggle.addEventListener("click", () => {
    const root = document.documentElement;
    const next = THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    try {
      localStorage.setItem("tunesmith-theme", next);
    } catch {
      // no storage: it lasts as long as the page
    }
    const asked = new URLSearchParams(location.search);
    if (asked.has("theme")) {
      asked.set("theme", next || "system");
      history.replaceState(history.state, "", `?${asked}${location.hash}`);
    }
    nameTheme();
    body.dispatchEvent(new CustomEvent("themed"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => body.dispatchEvent(new CustomEvent("themed")));

  // --- a change that was refused says why ---
  const toast = document.getElementById("toast");
  body.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) body.dispatchEvent(new CustomEvent("refused"));
    if (event.detail.requestConfig.verb === "get") return; // a refresh; the next one may succeed
    toast.textContent = event.detail.xhr.responseText || "That did not work; reload the page and try again.";
    toast.hidden = false;
  });

  // --- refreshing: at most once a second, and never what somebody is reading or has selected ---
  let due = false;
  let resting = false;
  let kinds = new Set();
  function refresh() {
    due = true;
    if (resting) return;
    due = false;
    resting = true;
    body.dispatchEvent(new CustomEvent("live"));
    if (["study", "stage", "test_read"].some((kind) => kinds.has(kind))) body.dispatchEvent(new CustomEvent("live-study"));
    kinds = new Set();
    setTimeout(() => {
      resting = false;
      if (due) refresh();
    }, 1000);
  }
  function isRead(part) {
    const selection = document.getSelection();
    const log = part.querySelector("[data-tail]");
    const isScrolledBack = log && log.scrollTop + log.clientHeight < log.scrollHeight - 8;
    const isHeld = part.id && document.querySelector(`:popover-open[data-holds="${part.id}"]`) !== null;
    const isOpen = isHeld || part.querySelector("details[open], :popover-open") !== null;
    return isScrolledBack || isOpen || (!selection.isCollapsed && part.contains(selection.anchorNode));
  }
  // Parts that name words of the page's address are fetched with what they say now.
  body.addEventListener("htmx:configRequest", (event) => {
    const asked = new URLSearchParams(location.search);
    for (const name of (event.detail.elt.dataset.asks || "").split(" ")) {
      if (name && asked.has(name)) event.detail.parameters[name] = asked.get(name);
    }
  });
  // What is read when it would be fetched, or by the time it has come, stays; once it is left it is fetched again.
  let isOld = false;
  function stays({ requestConfig }) {
    const asked = requestConfig.triggeringEvent;
    const does = asked && asked.type.startsWith("live") && isRead(requestConfig.elt);
    if (does && asked.type === "live-study") isOld = true; // what is fetched at each "live" soon is anyhow
    return does;
  }
  body.addEventListener("htmx:beforeRequest", (event) => {
    if (stays(event.detail)) event.preventDefault();
  });
  body.addEventListener("htmx:beforeSwap", (event) => {
    if (stays(event.detail)) event.detail.shouldSwap = false;
  });
  function leave() {
    if (!isOld) return;
    isOld = false;
    body.dispatchEvent(new CustomEvent("live-study"));
  }
  document.addEventListener("toggle", (event) => event.newState === "closed" && leave(), true);
  document.addEventListener("selectionchange", () => document.getSelection().isCollapsed && leave());

  // --- pages without a stream of their own ask again every few seconds, while they are looked at ---
  const every = Number(body.dataset.every);
  if (every) setInterval(() => document.hidden || refresh(), every * 1000);

  // --- the stream: closed while the tab is hidden, taken up again from the last event seen ---
  const url = body.dataset.stream;
  if (!url) return;
  const lamp = document.querySelector("[data-live]");
  const only = body.dataset.trial === undefined ? null : Number(body.dataset.trial);
  let last = body.dataset.after;
  let source = null;
  let again = null;

  function show(word) {
    if (lamp.dataset.live === word) return;
    lamp.dataset.live = word;
    lamp.textContent = word;
  }
  function close() {
    clearTimeout(again);
    if (source) source.close();
    source = null;
  }
  function open() {
    close();
    source = new EventSource(`${url}?after=${last}`);
    source.onopen = () => show("live");
    source.onerror = () => {
      show("reconnecting");
      // The browser tries again by itself unless the answer was a refusal.
      if (source && source.readyState === EventSource.CLOSED) {
        again = setTimeout(open, 2000);
        body.dispatchEvent(new CustomEvent("refused"));
        refresh();
      }
    };
    source.addEventListener("changes", (event) => {
      last = event.lastEventId;
      const changes = JSON.parse(event.data);
      const mine = changes.entries.filter((e) => only === null || e.trial === only || e.kind === "study");
      for (const entry of mine) kinds.add(entry.kind);
      if (changes.skipped) kinds.add("study");
      if (changes.skipped || mine.length) refresh();
    });
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  if (!document.hidden) open();
})();
