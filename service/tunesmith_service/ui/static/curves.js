// Training curves from a small JSON view (curves.py says what it holds), drawn on a canvas.
"use strict";
(() => {
  const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function viridis(t) {
    const at = t * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    const mix = (k) => Math.round(part(VIRIDIS[i], k) + (at - i) * (part(VIRIDIS[i + 1], k) - part(VIRIDIS[i], k)));
    return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
  }
  // The best curve stands out most: darkest on a light page, brightest on a dark one.
  function ranked(index, count) {
    const t = count > 1 ? index / (count - 1) : 0;
    return viridis(dark.matches ? 0.95 - 0.6 * t : 0.05 + 0.75 * t);
  }
  function digits(value) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    return size > -4 && size < 6 ? value.toFixed(Math.max(3 - size, 0)) : value.toExponential(3).replace("e+", "e");
  }
  const tick = (value) => String(Number(value.toPrecision(6))).replace("e+", "e");

  for (const root of document.querySelectorAll("[data-curves]")) draw(root);

  function draw(root) {
    const canvas = root.querySelector(".chart");
    const keys = root.querySelector(".keys");
    const note = root.querySelector("[data-note]");
    const chart = echarts.init(canvas);
    let view = null;
    let metric = root.dataset.metric;
    let scale = root.dataset.scale || "linear";
    let lit = null;
    new ResizeObserver(() => chart.resize()).observe(canvas);

    const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    function colour(curve, index, count) {
      if (curve.role === "train") return css("--soft");
      if (curve.role === "val") return css("--accent");
      if (curve.state === "running") return css("--accent");
      return ranked(index, count);
    }

    function option() {
      const finished = view.curves.filter((c) => c.state !== "running");
      const soft = css("--soft");
      const line = css("--line");
      const log = scale === "log" && view.range && view.range[0] > 0;
      const rates = view.axis.log;
      const narrow = canvas.clientWidth < 480;
      const steps = view.curves.flatMap((c) => [...c.steps, ...c.lost]);
      const axis = {
        nameTextStyle: { color: soft },
        axisLabel: { color: soft, hideOverlap: true },
        axisLine: { lineStyle: { color: line } },
        axisTick: { show: false },
        splitLine: { lineStyle: { color: line, width: 0.7 } },
      };
      return {
        animation: false,
        aria: { enabled: true, label: { description: `${view.metric} by ${view.axis.name}; the list below has the figures.` } },
        grid: { left: 8, right: 14, top: 30, bottom: 26, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
        textStyle: { fontFamily: getComputedStyle(root).fontFamily, fontSize: 12 },
        tooltip: {
          trigger: "axis",
          renderMode: "richText",
          confine: true,
          backgroundColor: css("--card"),
          borderColor: line,
          textStyle: { color: css("--text"), fontSize: 12, fontFamily: getComputedStyle(root).fontFamily },
          axisPointer: { lineStyle: { color: soft, type: "dashed" }, snap: true },
          formatter: (points) => tooltip(points, narrow ? 5 : 10),
        },
        xAxis: {
          ...axis, type: rates ? "log" : "value", name: view.axis.name, nameLocation: "end", nameGap: rates ? -84 : -30,
          min: Math.min(...steps), max: Math.max(...steps), minInterval: rates ? 0 : 1, splitLine: { show: false },
          axisLabel: { ...axis.axisLabel, ...(rates ? { formatter: tick, showMinLabel: false, showMaxLabel: false } : {}) },
          nameTextStyle: { color: soft, verticalAlign: "top", padding: [26, 0, 0, 0] },
        },
        yAxis: {
          ...axis, type: log ? "log" : "value", scale: true, name: view.metric,
          nameTextStyle: { color: soft, align: "left", padding: [0, 0, 0, -4] },
          min: view.range ? view.range[0] : null, max: view.range ? view.range[1] : null,
          axisLabel: { ...axis.axisLabel, formatter: tick, showMinLabel: log, showMaxLabel: log },
        },
        series: view.curves.map((curve, place) => {
          const c = colour(curve, finished.indexOf(curve), finished.length);
          const faded = lit !== null && lit !== curve.label;
          return {
            type: "line",
            name: curve.label,
            data: curve.steps.map((step, i) => [step, curve.values[i]]),
            symbol: curve.steps.length < 2 ? "circle" : "none",
            symbolSize: 5,
            z: curve.rank === 0 ? 4 : 3,
            lineStyle: {
              color: c, opacity: faded ? 0.15 : 1, type: curve.state === "running" ? "dashed" : "solid",
              width: curve.rank === 0 || lit === curve.label ? 2.5 : 1.5,
            },
            itemStyle: { color: c, opacity: faded ? 0.15 : 1 },
            emphasis: { disabled: true },
            markPoint: {
              symbol: "path://M1 1 9 9M9 1 1 9", symbolSize: 8, label: { show: false },
              itemStyle: { color: "transparent", borderColor: css("--bad"), borderWidth: 2 },
              data: curve.lost.map((step) => ({ coord: [step, view.range ? view.range[1] : 0] })),
            },
            markLine: place > 0 ? undefined : {
              precision: -1, // else rates are rounded to two decimals, and small ones leave the axis
              symbol: "none", silent: true, animation: false,
              lineStyle: { color: soft, type: "dashed", width: 1 },
              label: { color: soft, fontSize: 11, formatter: (mark) => mark.name, position: "insideEndTop" },
              data: view.marks.map((mark) => ({ name: mark.label, xAxis: mark.at })),
            },
          };
        }),
      };
    }

    function tooltip(points, most) {
      const order = [...points].sort((a, b) => a.seriesIndex - b.seriesIndex).slice(0, most);
      const lines = order.map((p) => `${p.marker} ${p.seriesName}   ${digits(p.value[1])}`);
      if (points.length > most) lines.push(`and ${points.length - most} more`);
      return [`${view.axis.name} ${view.axis.log ? digits(points[0].axisValue) : points[0].axisValue}`, ...lines].join("\n");
    }

    function list() {
      const finished = view.curves.filter((c) => c.state !== "running");
      keys.replaceChildren(...view.curves.map((curve) => {
        const item = document.createElement("li");
        const line = document.createElement("span");
        line.className = curve.state === "running" ? "line dashed" : "line";
        line.style.borderTopColor = colour(curve, finished.indexOf(curve), finished.length);
        const name = document.createElement(curve.href ? "a" : "span");
        if (curve.href) name.href = curve.href;
        name.textContent = curve.label;
        const about = document.createElement("span");
        about.className = "soft";
        about.textContent = curve.about;
        about.title = curve.about;
        const value = document.createElement("span");
        value.className = "value";
        value.textContent = digits(curve.value);
        item.append(line, name, about, value);
        item.addEventListener("mouseenter", () => light(curve.label));
        item.addEventListener("mouseleave", () => light(null));
        name.addEventListener("focus", () => light(curve.label));
        name.addEventListener("blur", () => light(null));
        return item;
      }));
    }
    function light(label) {
      lit = label;
      paint();
    }

    function choices() {
      const box = root.querySelector("[data-metrics]");
      const buttons = view.metrics.map((name) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = name;
        button.setAttribute("aria-pressed", String(name === view.metric));
        button.addEventListener("click", () => {
          metric = name;
          load(true);
        });
        return button;
      });
      const held = box.contains(document.activeElement) ? document.activeElement.textContent : null;
      box.replaceChildren(...(buttons.length > 1 ? buttons : []));
      for (const button of buttons) if (button.textContent === held) button.focus();
    }
    function paint() {
      if (view && view.curves.length) chart.setOption(option(), { notMerge: true, lazyUpdate: true });
    }

    let busy = false;
    let stale = false;
    async function load(now) {
      if (busy && !now) {
        stale = true;
        return;
      }
      busy = true;
      try {
        const answer = await fetch(`${root.dataset.curves}?metric=${encodeURIComponent(metric)}`);
        if (answer.ok) {
          view = await answer.json();
          metric = view.metric;
          canvas.hidden = !view.curves.length;
          note.hidden = view.curves.length > 0;
          choices();
          list();
          chart.resize();
          paint();
          root.dataset.shown = String(view.curves.length);
        }
      } catch {
        stale = true; // the server is away; the stream's next message asks again
      }
      setTimeout(() => {
        busy = false;
        if (stale) {
          stale = false;
          load();
        }
      }, 2000);
    }

    const log = root.querySelector("[data-log]");
    log.setAttribute("aria-pressed", String(scale === "log"));
    log.addEventListener("click", () => {
      scale = scale === "log" ? "linear" : "log";
      log.setAttribute("aria-pressed", String(scale === "log"));
      paint();
    });
    dark.addEventListener("change", () => view && (list(), paint()));
    document.body.addEventListener("live", () => load());
    load();
  }
})();
