// Draws the charts of #chart-data when they come into view, all of them before printing; in the colours of page.css.
(() => {
  "use strict";

  const NARROW_PX = 560;
  const PRINTED_PX = 660; // what A4 and Letter leave between the margins of @page
  const PRINTED_HEIGHT = 0.85;
  const CONFIG = {
    displayModeBar: false, responsive: false, showTips: false,
  };
  const DASHES = { solid: "", dot: "2 3", dash: "6 3", longdash: "10 3", dashdot: "6 3 2 3", longdashdot: "10 3 2 3" };
  const SYMBOLS = {
    square: "M-4-4H4V4H-4Z", diamond: "M0-5 5 0 0 5-5 0Z", "triangle-up": "M0-5 5 4H-5Z", "triangle-down": "M0 5 5-4H-5Z",
    x: "M-4-4 4 4M4-4-4 4", cross: "M0-5V5M-5 0H5", "line-ns": "M0-6V6", "line-ew": "M-6 0H6",
  };

  const root = document.documentElement;
  const { charts, arrays } = JSON.parse(document.getElementById("chart-data").textContent);
  const slots = [...document.querySelectorAll("figure.chart")];
  const off = new Map(); // by slot: the groups its legend has switched off
  const coarse = matchMedia("(pointer: coarse)").matches;
  let printing = false;

  const css = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  function colour({ role, alpha }) {
    const hex = css(role);
    if (alpha === 1) return hex;
    const n = parseInt(hex.slice(1), 16);
    return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
  }

  // A figure with its references and roles replaced.
  function resolved(node) {
    if (node === null || typeof node !== "object") return node;
    if (Array.isArray(node)) return node.map(resolved);
    if ("ref" in node) return arrays[node.ref];
    if ("role" in node && "alpha" in node) return colour(node);
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, resolved(value)]));
  }

  function axis(given, vertical, size) {
    return {
      gridcolor: css("grid"), zeroline: false, showgrid: vertical, showline: !vertical, linecolor: css("muted"),
      ticks: vertical ? "" : "outside", ticklen: 4, tickcolor: css("muted"), automargin: true, fixedrange: coarse,
      separatethousands: true, exponentformat: "none",
      ...given,
      title: { standoff: 8, font: { size, color: css("ink") }, ...(given.title || {}) },
    };
  }

  function layoutOf(figure, width, height) {
    const narrow = width < NARROW_PX;
    const given = resolved({ ...figure.layout, ...(narrow ? figure.narrow : {}) });
    const size = narrow ? 11 : 12;
    const layout = {
      width, height, autosize: false, showlegend: false, hovermode: "x unified", dragmode: coarse ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: narrow ? 44 : 60, r: narrow ? 8 : 22, t: figure.panels.length ? 30 : 12, b: 46 },
      font: { family: css("sans"), size, color: css("muted") },
      hoverlabel: { bgcolor: css("paper"), bordercolor: css("muted"), font: { family: css("sans"), size: 12, color: css("ink") } },
      ...given,
    };
    for (const key of new Set(["xaxis", "yaxis", ...Object.keys(given).filter((k) => /^[xy]axis\d*$/.test(k))])) {
      layout[key] = axis(given[key] || {}, key[0] === "y", size);
    }
    const labels = figure.panels.map(({ axis: name, label }) => ({
      text: label, xref: "paper", x: 0, xanchor: "left", yref: `${name} domain`, y: 1, yanchor: "bottom", yshift: 5,
      showarrow: false, font: { size, color: css("ink") },
    }));
    const notes = (given.annotations || []).map((note) => ({ font: { size: size - 1.5, color: css("muted") }, ...note }));
    layout.annotations = [...labels, ...notes];
    return layout;
  }

  const choiceOf = (slot) =>
    [...slot.querySelectorAll("select")].reduce((sum, box) => sum * Number(box.dataset.options) + box.selectedIndex, 0);

  function swatch({ role, dash, symbol, kind }) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "30");
    svg.setAttribute("height", "14");
    svg.setAttribute("viewBox", "-15 -7 30 14");
    svg.setAttribute("aria-hidden", "true");
    const add = (tag, facts) => {
      const node = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(facts)) node.setAttribute(name, value);
      svg.append(node);
    };
    const stroke = `var(--${role})`;
    if (kind === "band") add("rect", { x: -14, y: -5, width: 28, height: 10, fill: stroke, opacity: 0.25 });
    if (kind === "line" || kind === "points") {
      const dashes = (DASHES[dash] ?? dash).replaceAll("px", "").replaceAll(",", " ");
      add("line", { x1: -15, x2: 15, y1: 0, y2: 0, stroke, "stroke-width": 2, "stroke-dasharray": dashes });
    }
    if (kind === "marker" || kind === "points") {
      const open = /open|^x$|cross|line/.test(symbol);
      const paint = { fill: open ? "none" : stroke, stroke, "stroke-width": open ? 1.6 : 0 };
      if (symbol in SYMBOLS) add("path", { d: SYMBOLS[symbol], ...paint });
      else add("circle", { r: 4, ...paint });
    }
    return svg;
  }

  function drawLegend(slot, figure) {
    const hidden = off.get(slot);
    const entries = figure.legend.map((entry) => {
      const node = document.createElement(entry.fixed ? "span" : "button");
      node.className = "entry";
      node.append(swatch(entry), entry.label);
      if (!entry.fixed) {
        node.type = "button";
        node.setAttribute("aria-pressed", String(!hidden.has(entry.group)));
        node.addEventListener("click", () => {
          if (!hidden.delete(entry.group)) hidden.add(entry.group);
          node.setAttribute("aria-pressed", String(!hidden.has(entry.group)));
          drawPlot(slot, figure);
        });
      }
      return node;
    });
    slot.querySelector(".legend").replaceChildren(...entries);
  }

  function drawPlot(slot, figure) {
    const place = slot.querySelector(".plot");
    const width = printing ? Math.min(PRINTED_PX, charts[slot.id].most_px ?? PRINTED_PX) : place.clientWidth;
    const height = Math.round(charts[slot.id].height * (printing ? PRINTED_HEIGHT : 1));
    const hidden = off.get(slot);
    const traces = resolved(figure.traces).map((trace) => ({ ...trace, visible: !hidden.has(trace.legendgroup) }));
    return Plotly.react(place, traces, layoutOf(figure, width, height), CONFIG).then(
      () => { slot.dataset.drawn = String(width); },
      (error) => {
        place.textContent = "This chart could not be drawn in this browser.";
        console.error(slot.id, error);
      },
    );
  }

  function draw(slot) {
    const choice = choiceOf(slot);
    const figure = charts[slot.id].figures[choice];
    if (!off.has(slot)) off.set(slot, new Set(figure.legend.filter((entry) => entry.off).map((entry) => entry.group)));
    if (slot.dataset.choice !== String(choice)) {
      slot.dataset.choice = String(choice);
      drawLegend(slot, figure);
    }
    for (const table of document.querySelectorAll(`[data-chosen-by="${slot.id}"]`)) {
      table.hidden = table.dataset.choice !== String(choice);
    }
    return drawPlot(slot, figure);
  }

  const isDrawn = (slot) => "drawn" in slot.dataset;

  const near = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (isIntersecting) {
        near.unobserve(target);
        if (!isDrawn(target)) draw(target);
      }
    }
  }, { rootMargin: "300px 0px" });
  for (const slot of slots) {
    near.observe(slot);
    for (const box of slot.querySelectorAll("select")) box.addEventListener("change", () => draw(slot));
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => slots.filter(isDrawn).forEach(draw));

  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      if (printing) return;
      for (const slot of slots.filter(isDrawn)) {
        if (slot.dataset.drawn !== String(slot.querySelector(".plot").clientWidth)) draw(slot);
      }
    });
  });

  let opened = [];
  let plain = []; // a heading that is repeated on the next page loses its buttons
  addEventListener("beforeprint", () => {
    printing = true;
    root.classList.add("printing");
    opened = [...document.querySelectorAll("main details:not([open])")];
    for (const details of opened) details.open = true;
    plain = [...document.querySelectorAll("thead .term")].map((term) => {
      const words = document.createElement("span");
      words.textContent = term.textContent;
      term.replaceWith(words);
      return [words, term];
    });
    slots.forEach(draw);
  });
  addEventListener("afterprint", () => {
    printing = false;
    root.classList.remove("printing");
    for (const details of opened) details.open = false;
    for (const [words, term] of plain) words.replaceWith(term);
    slots.forEach(draw);
  });

  // Definitions on hover and focus; Escape puts them away.
  const tip = document.getElementById("tip");
  let leaving = 0;
  let shownFor = null;
  function show(button) {
    clearTimeout(leaving);
    shownFor = button;
    tip.textContent = document.getElementById(button.getAttribute("aria-describedby")).textContent;
    tip.hidden = false;
    put(button.getBoundingClientRect());
  }
  function put(at) {
    const { width, height } = tip.getBoundingClientRect();
    const below = at.bottom + 6 + height < innerHeight;
    tip.style.left = `${Math.max(16, Math.min(at.left, innerWidth - width - 16))}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - height - 6)}px`;
  }
  function hide() {
    clearTimeout(leaving);
    shownFor = null;
    tip.hidden = true;
  }
  const hideSoon = () => { leaving = setTimeout(hide, 150); };
  for (const button of document.querySelectorAll(".term")) {
    button.addEventListener("mouseenter", () => show(button));
    button.addEventListener("focus", () => show(button));
    button.addEventListener("click", () => show(button));
    button.addEventListener("mouseleave", hideSoon);
    button.addEventListener("blur", hide);
  }
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", hideSoon);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // It goes with its word, out of sight and back with it: charts that are drawn push a focused word around. Capturing:
  // tables scroll too.
  addEventListener("scroll", () => {
    if (!shownFor) return;
    const at = shownFor.getBoundingClientRect();
    tip.hidden = at.bottom < 0 || at.top > innerHeight;
    if (!tip.hidden) put(at);
  }, { passive: true, capture: true });

  // Contents: folded where there is no room beside the text, and marking the section being read.
  const contents = document.querySelector("nav details");
  const wide = matchMedia("(min-width: 68rem)");
  const fold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const reading = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) reading.observe(section);
})();
