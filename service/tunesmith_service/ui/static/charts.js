// What all charts share: when to load, how to draw, the table behind each, the theme's colours, and the
// question that the page asks, which stands in its address.
//
// A kind of chart says how it draws what the server sends:
//
//   Tunesmith.chart("history", {
//     option(view, ctx) → ECharts' option,     rows(view, ctx) → {head: […], rows: [[…], …]},
//     said(view, ctx) → a sentence below it,   controls(view, ctx),
//     trial(params, view) → the trial's number that a mark is: a click opens it, with Shift pins it (told.js), and whoever
//       points at it is told of it; click(params, view, ctx) where a click does something else,
//     isEmpty(view), height(view, ctx) → rem,  after(view, ctx): once it is drawn,  hover(number, view, ctx): another chart points at a trial
//   })
//
// and a page has `<section data-chart="history" data-url="…">` from parts/chart.html. `ctx` has: root, chart,
// css, narrow, state (kept between draws), ask(name, value), paint(), light(number), go(href).
"use strict";
window.Tunesmith = (() => {
  const kinds = new Map();
  const shown = [];
  const body = document.body;
  const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

  // --- numbers: four significant digits, as formats.py writes them ---
  function number(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (value === 0) return "0";
    if (Number.isInteger(value) && Math.abs(value) < 1e12) return String(value);
    const [mantissa, exponent] = value.toExponential(3).split("e");
    const size = Number(exponent);
    return size > -4 && size < 6 ? value.toFixed(Math.max(3 - size, 0)) : `${mantissa}e${size}`;
  }
  const tick = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))).replace("e+", "e") : String(value));
  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 10) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
    const minutes = Math.round(seconds / 60);
    return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  }

  // --- colours: a custom property may hold light-dark(…), which only an element's own colour resolves ---
  const probe = document.createElement("span");
  probe.hidden = true;
  body.append(probe);
  let colours = new Map();
  function css(name) {
    if (!colours.has(name)) {
      probe.style.color = `var(${name})`;
      colours.set(name, getComputedStyle(probe).color);
    }
    return colours.get(name);
  }
  const isDark = () => css("--card").match(/\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) < 384;
  function viridis(t) {
    const at = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    const mix = (k) => Math.round(part(VIRIDIS[i], k) + (at - i) * (part(VIRIDIS[i + 1], k) - part(VIRIDIS[i], k)));
    return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
  }
  const kind = (i) => css(`--kind-${i % 8}`);
  const STATES = { complete: "--good", pruned: "--warn", failed: "--bad", running: "--accent", waiting: "--soft", cancelled: "--soft" };
  const state = (word) => css(STATES[word] || "--soft");

  // --- what the page asks for, in its address: filter, sort, columns, … ---
  const query = {
    get: (name) => new URLSearchParams(location.search).get(name) || "",
    set(changes) {
      const asked = new URLSearchParams(location.search);
      for (const [name, value] of Object.entries(changes)) {
        if (value) asked.set(name, value);
        else asked.delete(name);
      }
      const search = asked.toString();
      if (search === new URLSearchParams(location.search).toString()) return; // Enter is a change and a submit
      history.replaceState(history.state, "", `${location.pathname}${search ? `?${search}` : ""}${location.hash}`);
      body.dispatchEvent(new CustomEvent("asked"));
    },
  };

  // --- one trial lit in every chart ---
  function light(number, from) {
    for (const one of shown) if (one.kind.hover && one.view && one !== from) one.kind.hover(number, one.view, one.ctx);
    for (const row of document.querySelectorAll("tr.is-lit")) row.classList.remove("is-lit");
    const row = number === null ? null : document.getElementById(`trial-${number}`);
    if (row && row.closest("tr")) row.closest("tr").classList.add("is-lit");
  }

  // A trial's page, from any page of its study.
  const trialHref = (number) => `${location.pathname.replace(/(\/studies\/\d+).*/, "$1")}/trials/${number}`;

  // --- parts of options that every chart has ---
  function axis(ctx, more = {}) {
    const soft = css("--soft");
    return {
      nameTextStyle: { color: soft },
      axisLine: { lineStyle: { color: css("--line") } },
      axisTick: { show: false },
      splitLine: { lineStyle: { color: css("--line"), width: 0.7 } },
      ...more,
      axisLabel: { color: soft, hideOverlap: true, ...(more.axisLabel || {}) },
    };
  }
  function base(ctx, description) {
    return {
      animation: false,
      aria: { enabled: true, label: { description } },
      textStyle: { fontFamily: getComputedStyle(body).fontFamily, fontSize: 12, color: css("--text") },
      grid: { left: 8, right: 14, top: 30, bottom: 32, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
      tooltip: {
        renderMode: "richText",
        confine: true,
        backgroundColor: css("--card"),
        borderColor: css("--line"),
        textStyle: { color: css("--text"), fontSize: 12, fontFamily: getComputedStyle(body).fontFamily },
      },
    };
  }

  // --- whose turn it is: charts load one after another, in the order in which they came into view, and
  // between two the browser may do what somebody waits for. What a person asks of a chart takes no turn. ---
  const waiting = new Map(); // a chart → whether somebody waits for it
  let loading = 0;
  let isResting = false;
  const rest = window.requestIdleCallback ? (then) => requestIdleCallback(then, { timeout: 500 }) : (then) => setTimeout(then, 50);
  function queue(one, now = false) {
    waiting.set(one, now || Boolean(waiting.get(one)));
    next();
  }
  function next() {
    if (loading || isResting || !waiting.size) return;
    const [[one, now]] = waiting;
    waiting.delete(one);
    one.load(now);
    next(); // where that one had loaded just now, and will again by itself
  }
  function loaded() {
    loading -= 1;
    if (isResting) return;
    isResting = true;
    rest(() => {
      isResting = false;
      next();
    });
  }

  // --- one chart of the page ---
  class Chart {
    constructor(root) {
      this.root = root;
      this.kind = kinds.get(root.dataset.chart);
      this.canvas = root.querySelector(".chart");
      this.note = root.querySelector("[data-note]");
      this.data = root.querySelector("details.data");
      this.view = null;
      this.busy = false;
      this.stale = false;
      this.asked = {};
      this.ctx = {
        root,
        css,
        state: {},
        chart: null,
        get narrow() {
          return root.clientWidth < 480;
        },
        ask: (name, value) => {
          this.asked[name] = value;
          this.load(true);
        },
        paint: () => this.paint(),
        light,
        go: (href) => location.assign(href),
        base: (description) => base(this.ctx, description),
        axis: (more) => axis(this.ctx, more),
      };
      this.data.addEventListener("toggle", () => this.table());
    }

    url() {
      const asked = new URLSearchParams();
      for (const name of (this.root.dataset.asks || "").split(" ")) if (name && query.get(name)) asked.set(name, query.get(name));
      for (const [name, value] of Object.entries(this.asked)) if (value !== "" && value !== null) asked.set(name, value);
      const search = asked.toString();
      const url = this.root.dataset.url;
      return search ? `${url}${url.includes("?") ? "&" : "?"}${search}` : url;
    }

    // At most one request at a time, and at most one in two seconds unless somebody waits for it.
    async load(now) {
      if (this.busy && !now) {
        this.stale = true;
        return;
      }
      this.busy = true;
      loading += 1;
      const url = this.url();
      try {
        const answer = await fetch(url, { headers: { accept: "application/json" } });
        if (answer.status === 401) document.body.dispatchEvent(new CustomEvent("refused"));
        const view = answer.ok ? await answer.json() : null;
        if (view && url === this.url()) this.show(view); // else something else has been asked meanwhile
      } catch {
        this.stale = true; // the server is away; the stream's next message asks again
      } finally {
        loaded();
      }
      setTimeout(() => {
        this.busy = false;
        if (this.stale) {
          this.stale = false;
          queue(this);
        }
      }, 2000);
    }

    show(view) {
      if (view.wrong) {
        this.say(view.wrong);
        return;
      }
      this.view = view;
      const isEmpty = this.kind.isEmpty ? this.kind.isEmpty(view) : false;
      this.canvas.hidden = isEmpty;
      this.note.hidden = !isEmpty;
      if (isEmpty) this.note.textContent = this.root.dataset.empty;
      this.data.hidden = isEmpty;
      if (!this.ctx.chart && !isEmpty) {
        this.ctx.chart = echarts.init(this.canvas);
        new ResizeObserver(() => this.ctx.chart.resize()).observe(this.canvas);
        this.ctx.chart.on("click", (params) => this.clicked(params));
        this.ctx.chart.on("mouseover", (params) => this.trial(params) !== undefined && light(this.trial(params), this));
        this.ctx.chart.on("mouseout", () => this.kind.trial && light(null, this));
      }
      if (this.kind.controls) this.kind.controls(view, this.ctx);
      this.paint();
      this.table();
      this.root.dataset.shown = isEmpty ? "0" : String(view.shown ?? 1);
    }

    trial(params) {
      return this.kind.trial ? this.kind.trial(params, this.view) : undefined;
    }

    clicked(params) {
      if (this.kind.click) this.kind.click(params, this.view, this.ctx);
      const number = this.trial(params);
      if (number === undefined) return;
      if (Tunesmith.pin && params.event.event.shiftKey) Tunesmith.pin(this.ctx, number);
      else this.ctx.go(trialHref(number));
    }

    // What the kind says of a mark; of a trial's then all that varies.
    option() {
      const option = this.kind.option(this.view, this.ctx);
      const say = option.tooltip && option.tooltip.formatter;
      if (!this.kind.trial || !Tunesmith.told || !say || option.tooltip.trigger !== "item") return option;
      const formatter = (params, ticket, done) => Tunesmith.told(this.trial(params), say(params), (text) => done(ticket, text));
      return { ...option, tooltip: { ...option.tooltip, formatter } };
    }

    say(text) {
      this.note.textContent = text;
      this.note.hidden = false;
    }

    paint() {
      if (!this.ctx.chart || this.canvas.hidden) return;
      if (this.kind.height) this.canvas.style.height = `${this.kind.height(this.view, this.ctx)}rem`;
      this.ctx.chart.resize();
      this.ctx.chart.setOption(this.option(), { notMerge: true });
      const said = this.root.querySelector(".said");
      if (this.kind.said) said.textContent = this.kind.said(this.view, this.ctx);
      if (this.kind.after) this.kind.after(this.view, this.ctx);
    }

    // The same figures for those who cannot see or do not trust a picture.
    table() {
      if (this.data.hidden || !this.data.open || !this.view || !this.kind.rows) return;
      const { head, rows } = this.kind.rows(this.view, this.ctx);
      const table = document.createElement("table");
      const line = (cells, tag) => {
        const tr = document.createElement("tr");
        for (const cell of cells) {
          const td = document.createElement(tag);
          if (tag === "th") td.scope = "col";
          if (typeof cell === "number") td.className = "r";
          td.textContent = typeof cell === "number" ? number(cell) : (cell ?? "–");
          tr.append(td);
        }
        return tr;
      };
      table.createTHead().append(line(head, "th"));
      const tbody = table.createTBody();
      for (const row of rows.slice(0, 500)) tbody.append(line(row, "td"));
      if (rows.length > 500) tbody.append(line([`and ${rows.length - 500} more; export has them all`], "td"));
      this.data.querySelector("[data-table]").replaceChildren(table);
    }
  }

  // --- a row of buttons of which one is pressed ---
  function choices(box, label, options, chosen, choose) {
    const held = box.contains(document.activeElement) ? document.activeElement.textContent : null;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", label);
    box.className = "choices";
    const buttons = options.map(([value, text]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-pressed", String(value === chosen));
      button.addEventListener("click", () => choose(value));
      return button;
    });
    box.replaceChildren(...buttons);
    for (const button of buttons) if (button.textContent === held) button.focus();
  }
  // What many curves say at an epoch.
  function curvesTip(ctx) {
    return {
      ...ctx.base("").tooltip, trigger: "axis", axisPointer: { lineStyle: { color: css("--soft"), type: "dashed" }, snap: true },
      formatter(points) {
        const named = points.filter((p) => p.seriesName && !p.seriesName.startsWith("series"));
        const most = ctx.narrow ? 5 : 12;
        const lines = named.slice(0, most).map((p) => `${p.marker} ${p.seriesName}   ${number(p.value[1])}`);
        if (named.length > most) lines.push(`and ${named.length - most} more`);
        return [`epoch ${tick(points[0].axisValue)}`, ...lines].join("\n");
      },
    };
  }
  // Where a chart's own controls stand; made once for each name.
  function place(ctx, name, tag = "span") {
    const bar = ctx.root.querySelector("[data-controls]");
    let box = bar.querySelector(`[data-control="${name}"]`);
    if (!box) {
      box = document.createElement(tag);
      box.dataset.control = name;
      bar.append(box);
    }
    return box;
  }

  function start() {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        const one = new Chart(entry.target);
        shown.push(one);
        queue(one, true);
      }
    }, { rootMargin: "200px" });
    for (const root of document.querySelectorAll("[data-chart]")) if (kinds.has(root.dataset.chart)) seen.observe(root);
    body.addEventListener("live", () => shown.forEach((one) => queue(one)));
    body.addEventListener("asked", () => shown.forEach((one) => queue(one, true)));
    body.addEventListener("themed", () => {
      colours = new Map();
      shown.forEach((one) => one.view && (one.kind.controls && one.kind.controls(one.view, one.ctx), one.paint()));
    });
  }
  document.addEventListener("DOMContentLoaded", start);

  return {
    chart: (name, how) => kinds.set(name, how),
    number, tick, duration, css, isDark, viridis, kind, state, query, light, choices, curvesTip, place, trialHref,
  };
})();
