// Samples that a trial left to be looked at: pictures on canvases, other inputs as bars, and what was said of
// them. All of it is data from a worker: it is drawn and written as text, never as markup.
"use strict";
Tunesmith.samples = (() => {
  const { number, css } = Tunesmith;
  const asked = new Map();

  function fetched(url) {
    if (!asked.has(url)) {
      asked.set(url, fetch(url, { headers: { accept: "application/json" } }).then((answer) => (answer.ok ? answer.json() : {})).catch(() => ({})).then((told) => ({ samples: told.samples || [] })));
    }
    return asked.get(url);
  }

  async function picture(canvas, encoded) {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    try {
      const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
      if (bitmap.width > 512 || bitmap.height > 512) return;
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      canvas.dataset.drawn = "1";
    } catch {
      canvas.dataset.drawn = "0"; // no picture after all
    }
  }

  // A row of numbers as bars from their common zero.
  function bars(canvas, values) {
    const known = values.filter((v) => typeof v === "number");
    const high = Math.max(0, ...known);
    const low = Math.min(0, ...known);
    const [w, h] = [96, 48];
    canvas.width = w * 2;
    canvas.height = h * 2;
    const draw = canvas.getContext("2d");
    draw.scale(2, 2);
    draw.fillStyle = css("--accent");
    const y = (v) => (high === low ? h / 2 : h - ((v - low) / (high - low)) * h);
    values.forEach((v, i) => {
      if (typeof v !== "number") return;
      draw.fillRect((i * w) / values.length, Math.min(y(v), y(0)), Math.max(w / values.length - 0.5, 0.5), Math.max(Math.abs(y(v) - y(0)), 1));
    });
    canvas.dataset.drawn = "1";
  }

  const text = (said) => (Array.isArray(said) ? said.slice(0, 4).map(number).join(", ") + (said.length > 4 ? " …" : "") : said);

  function card(sample) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const told = document.createElement("figcaption");
    const isPicture = Boolean(sample.input.png);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `sample ${sample.index}: ${isPicture ? "picture" : `${sample.input.values.length} numbers`}`);
    if (isPicture) picture(canvas, sample.input.png);
    else {
      canvas.className = "bars";
      bars(canvas, sample.input.values);
      canvas.title = sample.input.values.map(number).join(", ");
    }
    const line = (words, className) => {
      const p = document.createElement("p");
      p.textContent = words;
      if (className) p.className = className;
      told.append(p);
    };
    const isWrong = text(sample.prediction) !== text(sample.truth);
    const share = (p) => (typeof p === "number" ? ` ${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %` : "");
    line(`${isWrong ? "✗" : "✓"} said ${text(sample.prediction)}${share(sample.probability)}`, isWrong ? "wrong" : "");
    line(`is ${text(sample.truth)}${isWrong ? share(sample.truth_probability) : ""}`);
    line(`no. ${sample.index}, loss ${number(sample.loss)}`, "soft");
    figure.append(canvas, told);
    return figure;
  }

  function show(box, samples) {
    box.replaceChildren(...samples.map(card));
  }

  for (const gallery of document.querySelectorAll("[data-gallery]")) {
    const seen = new IntersectionObserver(async ([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      const { samples } = await fetched(gallery.dataset.gallery);
      const said = gallery.querySelector("[data-said]");
      said.hidden = samples.length > 0;
      said.textContent = "None: nothing of the split was mistaken.";
      show(gallery.querySelector("[data-samples]"), samples);
    }, { rootMargin: "200px" });
    seen.observe(gallery);
  }

  return { fetched, show };
})();
