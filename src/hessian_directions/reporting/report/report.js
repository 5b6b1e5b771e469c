"use strict";
// The report's program: which page is open, what is sorted, and one function for each kind of picture.
// Pictures are drawn when they come into view. Every kind gets its place and its data and returns a
// function that draws it anew, for another theme.

// Numbers.

function decoded(value) {
  // Arrays of Python's, base64 of float32; those of several axes become nested arrays.
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== "object") return value;
  if ("f4" in value) {
    const bytes = Uint8Array.from(atob(value.f4), (letter) => letter.charCodeAt(0));
    return nested(new Float32Array(bytes.buffer), value.shape);
  }
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, decoded(entry)]));
}

function nested(flat, shape) {
  if (shape.length < 2) return Array.from(flat);
  const size = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) =>
    nested(flat.subarray(i * size, (i + 1) * size), shape.slice(1)));
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function number(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value), counts = Number.isInteger(value) && size < 1e7;
  let text = String(counts ? value : Number(value.toPrecision(digits)));
  if (!counts && (size < 1e-3 || size >= 1e5)) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const power = [...String(Number(exponent))].map((letter) => RAISED[letter]).join("");
    text = `${Number(mantissa)}·10${power}`;
  }
  return text.replace(/^-/, "−");
}

const flat = (rows) => rows.flat();
const largest = (values) => values.reduce((found, value) => (value > found ? value : found), -Infinity);
const smallest = (values) => values.reduce((found, value) => (value < found ? value : found), Infinity);
const bound = (rows) => largest(flat(rows).filter(Number.isFinite).map(Math.abs)) || 1;
const even = (rows) => rows.map((row, i) => row.map((value, j) =>
  (value + rows[rows.length - 1 - i][row.length - 1 - j]) / 2));
const transposed = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));
const span = (values) => [values[0], values[values.length - 1]];
const range = (n) => Array.from({ length: n }, (_, i) => i);
// Linear up to 2 % of the largest change, logarithmic beyond, from −1 to 1.
const LINEAR = 0.02;
const squeezed = (value, scale) => Math.asinh(value / (LINEAR * scale)) / Math.asinh(1 / LINEAR);

// Look.

// Okabe and Ito's colours, one for each thing, the same in every picture; λₘₐₓ is vermilion, λₘᵢₙ blue.
const LIGHT = { largest: "#D55E00", smallest: "#0072B2", green: "#009E73", purple: "#A0517C", orange: "#B97F00",
  sky: "#3A94C9", grey: "#5D5D5D", ink: "#1b1b1f", line: "#d4d4da", paper: "#ffffff" };
const DARK = { largest: "#FF8A3D", smallest: "#56B4E9", green: "#2CC79A", purple: "#E19BC0", orange: "#E69F00",
  sky: "#8CD0F5", grey: "#A8A8B0", ink: "#ececf1", line: "#3c3c46", paper: "#1a1a20" };
const BLUE_TO_RED = ["#2369bd", "#5380bc", "#7896c1", "#9baecb", "#bdc6d7", "#dfe1e8", "#faf5f4", "#efdad8",
  "#e1b9b6", "#d39794", "#c67875", "#b85857", "#a9373b"].map((colour, i) => [i / 12, colour]);
const MARKERS = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "x", "pentagon"];
const colour = () => (document.documentElement.dataset.theme === "dark" ? DARK : LIGHT);
const series = (i) => { const c = colour(); return [c.smallest, c.largest, c.green, c.purple, c.orange, c.grey, c.sky][i % 7]; };
const narrow = () => window.innerWidth < 600;

function axis(title, more = {}) {
  const c = colour();
  return { title: { text: title, standoff: 6 }, gridcolor: c.line, zerolinecolor: c.grey, linecolor: c.grey,
    exponentformat: "power", minexponent: 3, automargin: true, ...more };
}

function axisOfScene(title, more = {}) {
  const c = colour();
  return { title: { text: title }, gridcolor: c.line, zerolinecolor: c.grey, color: c.ink, showspikes: false,
    showbackground: false, nticks: 5, exponentformat: "power", minexponent: 3, ...more };
}

// A new element at the end of another one.
const add = (host, tag, properties = {}) => Object.assign(host.appendChild(document.createElement(tag)), properties);

// A div with a picture; drawing again keeps zoom and view.
const place = (host, name, label) => add(host, "div", { className: `canvas ${name}`, role: "img", ariaLabel: label });

// The plotting library is text until there is something to draw: it takes seconds.
function loadLibrary() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("library").textContent;
  document.head.append(script);
}

function draw(div, traces, layout = {}) {
  loadLibrary();
  const c = colour();
  const margin = narrow() ? { l: 48, r: 8, t: 10, b: 44 } : { l: 64, r: 16, t: 14, b: 50 };
  return Plotly.react(div, traces, {
    margin, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept", autosize: true,
    font: { family: "system-ui, sans-serif", size: narrow() ? 11 : 13, color: c.ink },
    legend: { orientation: "h", yanchor: "bottom", y: 1.01, x: 0 },
    hoverlabel: { bgcolor: c.paper, bordercolor: c.grey, font: { color: c.ink } },
    // A finger that scrolls must not zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    ...layout,
  }, { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
    showSendToCloud: false, // nothing leaves this file
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}

const line = (name, x, y, style, more = {}) =>
  ({ type: "scatter", mode: "lines", name, x, y, line: style, ...more });

// The area between two curves.
const band = (x, low, high, fillcolor, style = {}) => {
  const edge = (y, more) => line("", x, y, { width: 0, ...style }, { hoverinfo: "skip", showlegend: false, ...more });
  return [edge(low, {}), edge(high, { fill: "tonexty", fillcolor })];
};

// A line across the picture, at a value of x or of y.
const across = (axis, value, style) => (axis === "x" ?
  { type: "line", x0: value, x1: value, yref: "paper", y0: 0, y1: 1, line: style } :
  { type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: style });

// Controls.

let made = 0;

const controls = (host) => add(host, "div", { className: "controls" });

// Buttons of which one is on: radios, so that arrow keys choose.
function choice(host, label, options, chosen, changed) {
  const group = add(host, "fieldset", { hidden: options.length < 2 }), name = `choice${made++}`;
  add(group, "legend", { textContent: label });
  for (const [value, text] of options) {
    const place = add(group, "label");
    const radio = add(place, "input", { type: "radio", name, value, checked: value === chosen });
    radio.addEventListener("change", () => changed(value));
    add(place, "span", { textContent: text });
  }
}

function menu(host, label, options, chosen, changed) {
  const place = add(host, "label", { textContent: `${label} `, hidden: options.length < 2 });
  const select = add(place, "select");
  for (const [value, text] of options) select.add(new Option(text, value, false, value === chosen));
  select.addEventListener("change", () => changed(select.value));
  return select;
}

function check(host, label, checked, changed) {
  const place = add(host, "label");
  const box = add(place, "input", { type: "checkbox", checked });
  place.append(" ", label);
  box.addEventListener("change", () => changed(box.checked));
}

function slider(host, label, low, high, step, value, changed) {
  const place = add(host, "label", { className: "slider", textContent: `${label} ` });
  const input = add(place, "input", { type: "range", min: low, max: high, step, value });
  input.addEventListener("input", () => changed(Number(input.value)));
  return input;
}

function button(host, text, label, pressed) {
  const made = add(host, "button", { type: "button", textContent: text, ariaLabel: label, title: label });
  made.addEventListener("click", () => pressed(made));
}

const readout = (host, properties = {}) => add(host, "output", { className: "readout", ...properties });

// Turn a surface without a pointer.
function turnable(host, div) {
  const turn = (degrees) => {
    const eye = div._fullLayout.scene.camera.eye, a = (degrees * Math.PI) / 180;
    Plotly.relayout(div, { "scene.camera.eye": {
      x: eye.x * Math.cos(a) - eye.y * Math.sin(a), y: eye.x * Math.sin(a) + eye.y * Math.cos(a), z: eye.z } });
  };
  const group = add(host, "span", { className: "turn" });
  button(group, "⟲", "Turn the surface to the left", () => turn(-15));
  button(group, "⟳", "Turn the surface to the right", () => turn(15));
}

const HAS_SURFACES = (() => {
  const context = document.createElement("canvas").getContext("webgl");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
})();

// A surface and its map side by side, with cross-hairs that both share.
//   pictured(): {x, y, rows (x, y), titles, origin, cosine}; rows are changes of the loss.
function surfaceAndMap(host, pictured, options = {}) {
  const bar = host.querySelector(".controls");
  const pair = add(host, "div", { className: "pair" });
  const solid = HAS_SURFACES ? place(pair, "solid", "The loss as a surface, to be turned and zoomed") : null;
  const map = place(pair, "map", "The loss as a map; arrow keys move the cross-hairs");
  map.tabIndex = 0;
  const said = readout(host, { ariaLive: "polite" });
  const state = { at: null, even: false, linear: false, listens: false };
  const shown = () => { const one = pictured(); return state.even ? { ...one, rows: even(one.rows) } : one; };
  check(bar, "without slopes", false, (on) => { state.even = on; again(); });
  if (solid) {
    check(bar, "height in proportion", false, (on) => { state.linear = on; again(); });
    turnable(bar, solid);
  }

  function hairs() {
    const { x, y, rows, origin, cosine, titles } = shown(), [i, j] = state.at, a = x[i], b = y[j];
    const scale = bound(rows), z = (value) => (state.linear ? value : squeezed(value, scale));
    const dash = { color: "#111", width: 1, dash: "dot" };
    Plotly.relayout(map, { shapes: [across("x", a, dash), across("y", b, dash)] });
    if (solid) {
      Plotly.restyle(solid, {
        x: [y.map(() => a), x, [a]],
        y: [y, x.map(() => b), [b]],
        z: [rows[i].map(z), rows.map((row) => z(row[j])), [z(rows[i][j])]],
      }, [1, 2, 3]);
    }
    const distance = Math.sqrt(Math.max(a * a + b * b + 2 * a * b * (cosine ?? 0), 0));
    const change = rows[i][j];
    const against = Math.abs(change) <= 1e-12 * Math.abs(origin) ? "as in θ*"
      : `${change < 0 ? "lower" : "higher"} by ${number(Math.abs(change))}`;
    said.textContent = `α ${number(a)}, β ${number(b)}: ${titles.loss ?? "L"} = ${number(origin + change, 5)}, ` +
      `${against}, at distance ${number(distance)} from θ*`;
  }

  function move(i, j) {
    const { x, y } = shown();
    const at = [Math.min(Math.max(i, 0), x.length - 1), Math.min(Math.max(j, 0), y.length - 1)];
    // A surface that is drawn anew under the pointer says again that it is hovered over.
    if (at[0] === state.at[0] && at[1] === state.at[1]) return;
    state.at = at;
    hairs();
  }

  const nearest = (values, value) =>
    values.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(values[best] - value) ? i : best), 0);

  map.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    move(state.at[0] + step[0], state.at[1] + step[1]);
  });

  async function again() {
    const { x, y, rows, titles } = shown(), scale = bound(rows);
    if (!state.at || state.at[0] >= x.length || state.at[1] >= y.length) {
      state.at = [(x.length - 1) / 2, (y.length - 1) / 2];
    }
    const colours = rows.map((row) => row.map((value) => squeezed(value, scale)));
    const ticks = [-1, -0.1, 0, 0.1, 1].map((share) => share * scale);
    const bar = { tickvals: ticks.map((value) => squeezed(value, scale)), ticktext: ticks.map((value) => number(value, 2)),
      title: { text: "L − L(θ*)", side: "top" }, thickness: 12, outlinewidth: 0, len: 0.9 };
    const hovered = "α %{x:.4~g}<br>β %{y:.4~g}<br>L − L(θ*) %{text}<extra></extra>";
    const texts = transposed(rows).map((row) => row.map((value) => number(value)));
    await draw(map, [
      { type: "contour", x, y, z: transposed(colours), text: texts, colorscale: BLUE_TO_RED, zmin: -1, zmax: 1, autocontour: false,
        contours: { start: -1, end: 1, size: 1 / 12, coloring: "fill" }, line: { width: 0.5, color: "rgba(255,255,255,.6)" },
        colorbar: bar, showscale: !narrow(), hovertemplate: hovered, connectgaps: false },
      { type: "contour", x, y, z: transposed(colours), contours: { start: 0, end: 0, size: 1, coloring: "none" },
        line: { width: 2, color: "#111" }, showscale: false, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: [0], y: [0], hoverinfo: "skip", showlegend: false,
        marker: { symbol: "cross-thin", size: 12, line: { width: 2.5, color: "#111" } } },
    ], { xaxis: axis(titles.x, { range: span(x), zeroline: false }), yaxis: axis(titles.y, { range: span(y), zeroline: false }),
      uirevision: titles.key, showlegend: false });
    if (solid) {
      const heights = state.linear ? rows : colours, edge = { width: 4, color: "#111" };
      const hair = { type: "scatter3d", mode: "lines", line: edge, hoverinfo: "skip", showlegend: false, x: [0], y: [0], z: [0] };
      const high = state.linear ? [Math.min(smallest(flat(rows)), 0), scale] : [-1, 1];
      await draw(solid, [
        { type: "surface", x, y, z: transposed(heights), surfacecolor: transposed(colours), text: texts, cmin: -1, cmax: 1,
          colorscale: BLUE_TO_RED, showscale: false, hovertemplate: hovered,
          lighting: { ambient: 0.75, diffuse: 0.5, specular: 0.05, roughness: 0.9 },
          contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false } } },
        hair, { ...hair }, { ...hair, mode: "markers", marker: { size: 4, color: "#111" } },
      ], { margin: { l: 0, r: 0, t: 0, b: 0 }, uirevision: options.keepView ? "kept" : titles.key, showlegend: false,
        scene: { xaxis: axisOfScene(titles.x), yaxis: axisOfScene(titles.y), zaxis: axisOfScene("L − L(θ*)", { range: high,
          ...(state.linear ? {} : { tickvals: bar.tickvals, ticktext: bar.ticktext }) }),
        aspectmode: "manual", aspectratio: { x: 1, y: 1, z: 0.75 }, dragmode: "turntable",
        camera: { eye: { x: -1.45, y: -1.55, z: 0.95 }, center: { x: 0, y: 0, z: -0.1 } } } });
    }
    hairs();
    if (!state.listens) {
      state.listens = true;
      const follow = ({ points: [point] }) => move(nearest(shown().x, point.x), nearest(shown().y, point.y));
      // A finger clicks and does not hover. The cross-hairs of the surface are curves of their own.
      for (const event of ["plotly_hover", "plotly_click"]) {
        map.on(event, follow);
        solid?.on(event, (found) => { if (found.points[0].curveNumber === 0) follow(found); });
      }
    }
  }
  return again;
}

// Kinds of pictures.

const PLANES = { random: "random", filter: "filter-normalised", hessian: "Hessian" };
const SPLITS = { train: "training", test: "test" };
const kinds = {};

kinds.slices = (host, { planes }) => {
  const names = Object.keys(planes), state = { plane: names[names.length - 1] };
  const splits = [...new Set(names.flatMap((name) => Object.keys(planes[name].losses)))];
  state.split = splits[0];
  const bar = controls(host);
  choice(bar, "Plane", names.map((name) => [name, PLANES[name] ?? name]), state.plane, (name) => { state.plane = name; again(); });
  choice(bar, "Loss", splits.map((name) => [name, SPLITS[name]]), state.split, (name) => { state.split = name; again(); });
  const again = surfaceAndMap(host, () => {
    const plane = planes[state.plane], losses = plane.losses[state.split] ?? Object.values(plane.losses)[0];
    const hessian = state.plane === "hessian";
    return { x: plane.alpha, y: plane.beta, rows: losses.change, origin: losses.origin,
      cosine: plane.cosine, titles: { x: hessian ? "α, along λₘₐₓ" : "α", y: hessian ? "β, along λₘᵢₙ" : "β",
        key: state.plane, loss: state.split === "test" ? "test L" : "L" } };
  });
  return again;
};

kinds.turning = (host, data) => {
  const n = data.angle.length, state = { i: 0 };
  const bar = controls(host);
  const input = slider(bar, "Angle", 0, n - 1, 1, 0, (i) => { state.i = i; again(); });
  input.setAttribute("aria-label", "Angle by which the plane is turned, from random to Hessian directions");
  let timer = null;
  const stop = (play) => { clearInterval(timer); timer = null; play.textContent = "▶"; };
  button(bar, "▶", "Turn the plane by itself", (play) => {
    if (timer) return stop(play);
    if (state.i === n - 1) state.i = -1;
    play.textContent = "⏸";
    timer = setInterval(() => {
      state.i += 1;
      input.value = state.i;
      if (state.i >= n - 1 || !host.isConnected) stop(play);
      again();
    }, 700);
  });
  const says = readout(host, { className: "readout strong", ariaLive: "polite" });
  const picture = surfaceAndMap(host, () => ({
    x: data.points.map((p) => p * data.half_width[state.i][0]), y: data.points.map((p) => p * data.half_width[state.i][1]),
    rows: data.change[state.i], origin: data.origin, cosine: 0,
    titles: { x: "α", y: "β", key: `turned${state.i}` } }), { keepView: true });
  const curve = place(host, "low", "Both principal curvatures against the angle");
  async function again() {
    const i = state.i, c = colour(), low = data.smallest[i], high = data.largest[i];
    const looks = low < 0 && high > 0 ? "a saddle" : low >= 0 ? "a minimum" : "a maximum";
    says.textContent = `${number(data.angle[i])}°: κ₋ = ${number(low)}, κ₊ = ${number(high)}, curved like ${looks}`;
    input.setAttribute("aria-valuetext", says.textContent);
    await picture();
    const extent = bound([data.largest, data.smallest]), scale = 0.005 * extent;
    const bent = (value) => Math.asinh(value / scale);
    const decades = range(6).map((k) => 10 ** (Math.floor(Math.log10(extent)) - k)).filter((v) => v >= scale);
    const ticks = [...decades.map((v) => -v), 0, ...decades];
    const one = (name, values, tone, symbol) => line(name, data.angle, values.map(bent), { color: tone, width: 2 },
      { mode: "lines+markers", marker: { symbol, size: 7 }, text: values.map((v) => number(v)), hovertemplate: `${name} %{text}<extra></extra>` });
    return draw(curve, [one("κ₊", data.largest, c.largest, "circle"), one("κ₋", data.smallest, c.smallest, "square")], {
      xaxis: axis("angle", { ticksuffix: "°", dtick: narrow() ? 30 : 15, range: [-3, 93] }),
      yaxis: axis("curvature", { tickvals: ticks.map(bent), ticktext: ticks.map((v) => number(v, 1)), zerolinewidth: 2,
        range: [bent(Math.min(...data.smallest, 0)) - 0.4, bent(Math.max(...data.largest, 0)) + 0.4] }),
      shapes: [across("x", data.angle[i], { color: c.ink, width: 1.5, dash: "dot" })] });
  }
  return again;
};

// Printed name, colour and dashes of each direction.
const DIRECTIONS = { largest: ["along λₘₐₓ", "largest"], smallest: ["along λₘᵢₙ", "smallest"], random_0: ["random", "grey"],
  random_1: ["random, another", "green", "dot"] };

kinds.lines = (host, data) => {
  const finite = flat(data.loss).filter(Number.isFinite), top = largest(finite), low = smallest(finite);
  const state = { logarithmic: low > 0 && top > 30 * low, bends: true };
  const bar = controls(host);
  check(bar, "logarithmic loss", state.logarithmic, (on) => { state.logarithmic = on; again(); });
  check(bar, "parabolas", true, (on) => { state.bends = on; again(); });
  const div = place(host, "", "Loss along lines through the weights");
  const middle = data.distance.indexOf(0);
  function again() {
    const traces = data.direction.flatMap((name, k) => {
      const origin = data.loss[k][middle], [said, tone, dash] = DIRECTIONS[name], color = colour()[tone];
      const drawn = [line(said, data.distance, data.loss[k], { color, width: 2.5, dash },
        { legendgroup: name, hovertemplate: "%{x:.3~g}: L = %{y:.5~g}<extra></extra>" })];
      if (state.bends) {
        const parabola = data.distance.map((s) => origin + data.slope[k] * s + 0.5 * data.curvature[k] * s * s);
        drawn.push(line("", data.distance, parabola.map((v) => (state.logarithmic && v <= 0 ? null : v)),
          { color, width: 1.2, dash: "dash" }, { legendgroup: name, showlegend: false, hoverinfo: "skip" }));
      }
      return drawn;
    });
    return draw(div, traces, { xaxis: axis("distance from θ*"), yaxis: axis("loss L", state.logarithmic ? { type: "log", range: [Math.log10(low) - 0.3, Math.log10(top) + 0.1] } :
      { range: [Math.min(low - 0.05 * (top - low), low), top + 0.05 * (top - low)] }), uirevision: String(state.logarithmic) });
  }
  return again;
};

kinds.spectrum = (host, data) => {
  const probes = data.nodes.map((nodes, p) => nodes.map((node, k) => [node, data.weights[p][k]]).filter(([node]) => Number.isFinite(node)))
    .filter((probe) => probe.length);
  const ends = data.values, reach = [...probes.flat().map(([node]) => node), ...ends];
  const low = smallest(reach), high = largest(reach);
  // The bulk is about as wide as the negative end; without one, three decades below the largest.
  const first = Math.floor(Math.log10(low < 0 ? -low : 1e-2 * high || 1)) - 1;
  const last = Math.ceil(Math.log10(Math.max(-low, high)));
  const state = { exponent: first };
  const bar = controls(host);
  const input = slider(bar, "λ₀", first - 2, last - 1, 0.25, first, (value) => { state.exponent = value; again(); });
  const says = add(bar, "span");
  const div = place(host, "", "Density of the eigenvalues");
  const WIDTH = 0.12; // of the Gaussians that broaden the quadrature, in units of arcsinh(λ/λ₀)
  function again() {
    const c = colour(), scale = 10 ** state.exponent, u = (value) => Math.asinh(value / scale);
    says.textContent = number(scale, 2);
    input.setAttribute("aria-valuetext", says.textContent);
    const from = Math.min(u(low), 0) - 6 * WIDTH, to = Math.max(u(high), 0) + 6 * WIDTH;
    const grid = range(600).map((k) => from + ((to - from) * k) / 599);
    const unit = WIDTH * Math.sqrt(2 * Math.PI), one = 1 / (data.n_parameters * unit), floor = one / 30;
    const densities = probes.map((probe) => {
      const density = new Float64Array(grid.length);
      for (const [node, weight] of probe) {
        const centre = u(node);
        grid.forEach((at, k) => { density[k] += (weight / unit) * Math.exp(-0.5 * ((at - centre) / WIDTH) ** 2); });
      }
      return density;
    });
    const over = (pick) => grid.map((_, k) => Math.max(pick(densities.map((density) => density[k])), floor));
    const mean = over((values) => values.reduce((a, b) => a + b) / values.length);
    const top = 4 * largest(mean);
    const ticks = [0];
    for (let k = Math.ceil(state.exponent); k <= last; k += narrow() ? 2 : 1) ticks.push(10 ** k, -(10 ** k));
    const kept = ticks.filter((v) => u(v) > from && u(v) < to && (v === 0 || Math.abs(u(v)) > 0.9));
    const stem = (value, name, tone) => ({ type: "scatter", mode: "lines+markers", name: `${name} = ${number(value)}`, x: [u(value), u(value)], y: [floor, top / 2],
      line: { color: tone, width: 1.5 }, marker: { symbol: "triangle-down", size: [0, 11], color: tone }, hovertemplate: `${name} ${number(value, 6)}<extra></extra>` });
    const rug = (values, name, tone, symbol, height) => ({ type: "scatter", mode: "markers", name, x: values.map(u), y: values.map(() => height),
      marker: { symbol, size: 10, color: tone, line: { color: tone, width: 1.5 } }, text: values.map((v) => number(v, 5)), hovertemplate: "λ = %{text}<extra></extra>" });
    const traces = [
      ...band(grid, over(smallest), over(largest), "rgba(0,158,115,.25)"),
      line("density, by Lanczos quadrature", grid, mean.map((v) => (v > floor ? v : null)), { color: c.green, width: 2.5 },
        { text: grid.map((v) => number(scale * Math.sinh(v))), hovertemplate: "λ = %{text}: %{y:.2~g}<extra></extra>" }),
      line("one eigenvalue", [from, to], [one, one], { color: c.grey, width: 1, dash: "dot" }, { hoverinfo: "skip" }),
    ];
    if (data.ritz?.length) traces.push(rug(data.ritz, "Ritz values", c.purple, "line-ns-open", floor * 1.6));
    if (ends.length > 2) traces.push(rug(ends.slice(1, -1), "other eigenvalues", c.ink, "line-ns-open", floor * 4));
    if (ends.length) traces.push(stem(largest(ends), "λₘₐₓ", c.largest), stem(smallest(ends), "λₘᵢₙ", c.smallest));
    return draw(div, traces, {
      xaxis: axis("eigenvalue λ", { tickvals: kept.map(u), ticktext: kept.map((v) => number(v, 1)), range: [from, to], zeroline: true }),
      yaxis: axis("density of arcsinh(λ/λ₀)", { type: "log", range: [Math.log10(floor), Math.log10(top)] }), uirevision: String(state.exponent) });
  }
  return again;
};

kinds.localisation = (host, data) => {
  const state = { by: "kind" };
  choice(controls(host), "By", [["kind", "kinds of parameters"], ["layer", "layers"]], "kind", (by) => { state.by = by; again(); });
  const div = place(host, "", "Shares of the extreme eigenvectors");
  function again() {
    const c = colour(), group = data[state.by], n = group.names.length;
    const labels = n > 14 ? group.names.map((_, k) => k) : group.names;
    const bars = (name, values, tone, pattern) => ({ type: "bar", name, x: labels, y: values, customdata: group.names,
      marker: { color: tone, pattern: { shape: pattern, fillmode: "overlay", fgcolor: c.paper, fgopacity: 1, size: 6, solidity: 0.25 } }, hovertemplate: `%{customdata}: %{y:.1%}<extra>${name}</extra>` });
    return draw(div, [bars("of vₘₐₓ", group.largest, c.largest, ""), bars("of vₘᵢₙ", group.smallest, c.smallest, "/"),
      bars("of the parameters", group.part, c.line === DARK.line ? "#8a8a94" : "#8f8f98", "")],
    { barmode: "group", bargap: 0.25, xaxis: axis(n > 14 ? "layer, from the input to the output" : "", { type: n > 14 ? "linear" : "category" }),
      yaxis: axis("share", { tickformat: ".0%", rangemode: "tozero" }), uirevision: state.by });
  }
  return again;
};

kinds.visibility = (host, data) => {
  const state = { logarithmic: true };
  check(controls(host), "logarithmic share", true, (on) => { state.logarithmic = on; again(); });
  const div = place(host, "", "Share of random slices with smaller κ₋");
  function again() {
    const c = colour(), n = data.smallest.length, share = range(n).map((k) => (k + 1) / n);
    const floor = state.logarithmic ? smallest([0.5 / n, ...(data.predicted ? data.predicted.share : [])]) : 0;
    const clipped = (values) => values.map((v) => (state.logarithmic && v < floor ? null : v));
    const traces = [
      ...band(data.smallest, data.low.map((v) => Math.max(v, floor)), data.high, "rgba(213,94,0,.22)", { shape: "hv" }),
      line(`${n} sampled slices, 95 % interval`, data.smallest, share, { color: c.largest, width: 2.5, shape: "hv" }, { hovertemplate: "%{y:.3~g} below %{x:.3~g}<extra></extra>" }),
      line("Gaussian limit", data.limit.x, clipped(data.limit.share), { color: c.ink, width: 1.5, dash: "dash" }, { hoverinfo: "skip" }),
    ];
    if (data.predicted) traces.push(line("from the spectrum", data.predicted.x, data.predicted.share, { color: c.smallest, width: 2 }, { hovertemplate: "%{y:.3~g} below %{x:.3~g}<extra></extra>" }));
    return draw(div, traces, { xaxis: axis("principal curvature κ₋, directions not normalised", { range: span(data.limit.x), zerolinewidth: 2 }),
      yaxis: axis("share of slices with smaller κ₋", state.logarithmic ? { type: "log", range: [Math.log10(floor), 0.05] } : { range: [0, 1.03] }), uirevision: String(state.logarithmic),
      annotations: [{ x: 0.98, y: 0.04, xref: "paper", yref: "paper", xanchor: "right", yanchor: "bottom", text: `r = t/f = ${number(data.r)}`, showarrow: false }] });
  }
  return again;
};

// A logarithmic axis: decades alone are labelled; where fewer than two are in view, also 2 and 5 times them.
function logarithmic(values) {
  const positive = values.filter((value) => value > 0), decades = Math.log10(largest(positive) / smallest(positive));
  return { type: "log", ...(decades < 2 ? { dtick: "D2", tickformat: "~g" } : { dtick: Math.ceil(decades / 7) }) };
}

// Any curves and points: pictures of which one is chosen, each with its axes, curves, and perhaps a map behind.
kinds.curves = (host, { pictures }) => {
  // The first, or that of the network that an address names.
  const sought = pictures.findIndex((picture) => picture.network === host.dataset.network);
  const state = { i: Math.max(sought, 0) }, bar = controls(host);
  menu(bar, "Show", pictures.map((picture, i) => [String(i), picture.label]), String(state.i), (i) => { state.i = Number(i); again(); });
  const div = place(host, "", "Curves");
  function again() {
    const c = colour(), picture = pictures[state.i], powers = picture.logarithmic ?? "";
    const traces = [];
    if (picture.map) {
      traces.push({ type: "contour", ...picture.map, colorscale: "Cividis", contours: { coloring: "fill" }, line: { width: 0.5, color: "rgba(255,255,255,.5)" }, ncontours: 20,
        colorbar: { title: { text: picture.map.title, side: "top" }, thickness: 12, outlinewidth: 0 }, showscale: !narrow(), hoverinfo: "skip" });
    }
    const shown = (axis, values) => values.map((v) => (powers.includes(axis) && !(v > 0) ? null : v));
    picture.curves.forEach((curve, k) => {
      const tone = picture.map ? "#ffffff" : c[curve.colour] ?? series(k), mode = curve.mode ?? "lines";
      const x = shown("x", curve.x), y = shown("y", curve.y);
      const trace = { type: "scatter", mode, name: curve.name, x, y, text: curve.text, line: { color: tone, width: 2, dash: curve.dash },
        marker: { color: tone, size: 8, opacity: 0.9, symbol: MARKERS[k % MARKERS.length], line: { width: 0.5, color: c.paper } },
        hovertemplate: `${curve.text ? "%{text}<br>" : ""}%{x:.4~g}: %{y:.4~g}<extra>%{fullData.name}</extra>` };
      if (curve.x.some((v) => typeof v === "string")) trace.hovertemplate = "%{x}: %{y:.5~g}<extra></extra>";
      if (curve.low && mode === "markers") {
        trace.error_y = { type: "data", symmetric: false, thickness: 1.2, width: 2, color: tone,
          array: curve.y.map((v, i) => Math.max(curve.high[i] - v, 0)), arrayminus: curve.y.map((v, i) => Math.max(v - curve.low[i], 0)) };
      } else if (curve.low) {
        traces.push(...band(x, shown("y", curve.low), shown("y", curve.high), `${tone}38`));
      }
      traces.push(trace);
    });
    const all = (name) => picture.curves.flatMap((curve) => curve[name]);
    const is = (name) => (powers.includes(name) ? logarithmic(all(name)) : {});
    div.setAttribute("aria-label", `${picture.label}: ${picture.y} against ${picture.x}`);
    return draw(div, traces, { xaxis: axis(picture.x, is("x")), yaxis: axis(picture.y, is("y")), uirevision: String(state.i), showlegend: true });
  }
  return again;
};

// Kendall's τ-b of two lists.
function kendall(a, b) {
  let agree = 0, tiesA = 0, tiesB = 0, pairs = 0;
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      const x = Math.sign(a[i] - a[j]), y = Math.sign(b[i] - b[j]);
      agree += x * y; tiesA += x === 0; tiesB += y === 0; pairs += 1;
    }
  }
  return agree / Math.sqrt((pairs - tiesA) * (pairs - tiesB));
}

kinds.population = (host, data) => {
  const measures = Object.keys(data.measures), gaps = Object.keys(data.gaps), factors = Object.keys(data.factors);
  const state = { measure: measures[0], gap: gaps[0], factor: factors[0], only: "all" };
  const bar = controls(host);
  const said = (name) => name.replaceAll("_", " ");
  menu(bar, "Measure", measures.map((name) => [name, said(name)]), state.measure, (name) => { state.measure = name; again(); });
  menu(bar, "Gap", gaps.map((name) => [name, name]), state.gap, (name) => { state.gap = name; again(); });
  menu(bar, "Strata", factors.map((name) => [name, name]), state.factor, (name) => { state.factor = name; state.only = "all"; levels(); again(); });
  const only = menu(bar, "Only", [["all", "all"], ["", ""]], "all", (level) => { state.only = level; again(); });
  const of = (factor) => [...new Set(data.factors[factor])].sort((a, b) => a - b);
  function levels() {
    only.replaceChildren(...["all", ...of(state.factor).map(String)].map((level) => new Option(level === "all" ? level : number(Number(level), 6), level)));
  }
  levels();
  const div = place(host, "", "Measure of flatness against the generalization gap");
  const picked = readout(host, { ariaLive: "polite" });
  picked.textContent = "Pick a point, or step through them with the arrow keys, to read what was trained.";
  div.tabIndex = 0;
  let at = -1; // the last that was picked
  function pick(i) {
    at = i;
    picked.textContent = `${said(state.measure)} ${number(data.measures[state.measure][i])}, ${state.gap} ${number(data.gaps[state.gap][i])}; ` +
      factors.map((name) => `${name} ${number(data.factors[name][i], 6)}`).join(", ");
  }
  div.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    // From left to right, among those that are shown.
    const points = div.data.flatMap((trace, c) => trace.customdata.map((i, p) => [trace.x[p], i, c, p])).sort(([a], [b]) => a - b);
    const found = points.findIndex(([, i]) => i === at);
    const [, i, curveNumber, pointNumber] = points[Math.min(Math.max(found + step, 0), points.length - 1)];
    pick(i);
    Plotly.Fx.hover(div, [{ curveNumber, pointNumber }]);
  });
  function again() {
    const c = colour(), x = data.measures[state.measure], y = data.gaps[state.gap], factor = data.factors[state.factor];
    const positive = x.every((v) => v > 0) && largest(x) > 3 * smallest(x);
    const traces = of(state.factor).filter((level) => state.only === "all" || String(level) === state.only).map((level, k) => {
      const kept = range(x.length).filter((i) => factor[i] === level), a = kept.map((i) => x[i]), b = kept.map((i) => y[i]);
      return { type: "scatter", mode: "markers", name: `${state.factor} ${number(level, 6)}: τ = ${number(kendall(a, b), 2)}`, x: a, y: b, customdata: kept,
        marker: { size: 7, color: series(of(state.factor).indexOf(level)), symbol: MARKERS[of(state.factor).indexOf(level) % MARKERS.length], opacity: 0.9, line: { width: 0.4, color: c.paper } },
        hovertemplate: "%{x:.4~g}, %{y:.3~g}<extra></extra>" };
    });
    return draw(div, traces, { xaxis: axis(said(state.measure), positive ? logarithmic(x) : {}), yaxis: axis(state.gap), uirevision: `${state.measure}${state.gap}`, showlegend: true, hovermode: "closest" })
      .then(() => {
        div.removeAllListeners("plotly_click");
        div.on("plotly_click", ({ points: [point] }) => pick(point.customdata));
      });
  }
  return again;
};

// Numbers computed here against the archive's: where each lies in its interval, and a table.
kinds.comparison = (host, { rows }) => {
  const state = { text: "", misses: false }, bar = controls(host);
  const search = add(bar, "input", { type: "search", placeholder: "filter: trace, resnet8 …", ariaLabel: "Filter the numbers" });
  search.addEventListener("input", () => { state.text = search.value.toLowerCase(); again(); });
  check(bar, "misses only", false, (on) => { state.misses = on; again(); });
  const div = place(host, "low", "Where each number lies in its interval");
  const count = readout(host);
  const table = add(add(host, "div", { className: "wide" }), "table");
  const MOST = 200;
  function again() {
    const c = colour();
    const kept = rows.filter((row) => (!state.misses || !row.agrees) && `${row.quantity} ${row.row}`.toLowerCase().includes(state.text));
    // Of an interval without width: its middle, or outside.
    const within = (row) => (row.high > row.low ? (2 * row.computed - row.low - row.high) / (row.high - row.low) : row.computed === row.low ? 0 : 3);
    const judged = kept.filter((row) => row.computed !== null).map((row, i) => ({ row, i, at: within(row) })).filter(({ at }) => Number.isFinite(at));
    const shown = (at) => Math.sign(at) * Math.min(Math.abs(at), 3);
    const points = (name, agrees, tone, symbol) => {
      const own = judged.filter(({ row }) => row.agrees === agrees);
      return { type: "scatter", mode: "markers", name: `${own.length} ${name}`, x: own.map(({ i }) => i), y: own.map(({ at }) => shown(at)), marker: { color: tone, symbol, size: agrees ? 5 : 9 },
        text: own.map(({ row }) => `${row.quantity}, ${row.row}<br>archive ${number(row.published, 5)}, here ${number(row.computed, 5)}<br>allowed ${number(row.low, 5)} to ${number(row.high, 5)}`), hovertemplate: "%{text}<extra></extra>" };
    };
    const missing = kept.length - judged.length;
    count.textContent = [`${kept.length} of ${rows.length} numbers`, missing && `${missing} have no point: they are not finite`, kept.length > MOST && `the table has the first ${MOST}`].filter(Boolean).join("; ");
    const heads = ["number", "of", "archive", "here", "allowed from", "to", "by"];
    const write = (part, tag, texts, className = "") => {
      const row = add(part, "tr", { className });
      texts.forEach((textContent) => add(row, tag, { textContent }));
    };
    table.replaceChildren();
    write(add(table, "thead"), "th", heads);
    const body = add(table, "tbody");
    for (const row of kept.slice(0, MOST)) {
      const numbers = [row.published, row.computed, row.low, row.high].map((value) => number(value, 6));
      write(body, "td", [row.quantity, row.row, ...numbers, row.within], row.agrees ? "" : "miss");
    }
    return draw(div, [points("agree", true, c.smallest, "circle"), points("do not", false, c.largest, "x")], {
      xaxis: axis("number, in the order of the table", { zeroline: false }), yaxis: axis("place in its interval", { tickvals: [-1, 0, 1], ticktext: ["low end", "middle", "high end"], range: [-3.2, 3.2] }), showlegend: true,
      shapes: [-1, 1].map((y) => across("y", y, { color: c.grey, width: 1, dash: "dash" })) });
  }
  return again;
};

// The page itself.

const drawn = new Map(); // place → the function that draws it anew
const TITLE = document.title;

// What an address led to. Panels above it that are drawn later push it down: it is kept in view until the reader acts.
let aim = null;
for (const act of ["wheel", "touchstart", "keydown", "pointerdown"]) {
  window.addEventListener(act, () => { aim = null; }, { passive: true });
}

function show(div) {
  if (!drawn.has(div)) {
    const data = decoded(JSON.parse(div.querySelector("script").textContent));
    div.querySelector("p.note")?.remove();
    drawn.set(div, kinds[div.dataset.kind](div, data));
  }
  const done = Promise.resolve(drawn.get(div)());
  done.then(() => aim?.scrollIntoView());
  return done;
}

// Browsers keep few surfaces alive: those of a page that is left are given up.
function leave(page) {
  for (const div of page.querySelectorAll(".plot")) {
    if (!drawn.delete(div)) continue;
    div.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.purge(plot));
    div.replaceChildren(div.querySelector("script"));
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !drawn.has(target)) show(target);
  }
}, { rootMargin: "300px" });

function decodedAddress(address) {
  try {
    return decodeURIComponent(address);
  } catch { // no address of ours
    return "";
  }
}

// An address names a page or a panel, and after a question mark the network that a panel begins with. `y`: where the
// reader was when the page was left.
function open(address, y = 0) {
  const pages = [...document.querySelectorAll("article.page")];
  const [name, network] = decodedAddress(address).split("?");
  const target = name ? document.getElementById(name) : null;
  const page = target?.closest("article.page") ?? pages[0];
  for (const other of pages) {
    if (other !== page && !other.hidden) leave(other);
    other.hidden = other !== page;
  }
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.getAttribute("href") === `#${page.id}`;
    isHere ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    if (isHere) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const label = page.querySelector("h2").textContent;
  document.title = pages.length > 1 ? `${label} · ${TITLE}` : TITLE;
  document.querySelectorAll(".sought").forEach((panel) => panel.classList.remove("sought"));
  aim = null;
  // What sticks to the top would hide what lies under it.
  document.documentElement.style.scrollPaddingTop = `calc(${document.querySelector("header").offsetHeight}px - 3rem)`;
  if (target && target !== page) {
    const plot = target.querySelector(".plot");
    if (plot && network) plot.dataset.network = network;
    target.classList.add("sought");
    target.tabIndex = -1;
    if (!y) aim = target;
  }
  if (address) (target ?? page).focus({ preventScroll: true });
  aim && !y ? aim.scrollIntoView() : window.scrollTo(0, y);
}

function sort(table, column, direction) {
  const body = table.tBodies[0];
  const key = (row) => { const text = row.cells[column].dataset.key, value = Number(text); return text === "" ? NaN : Number.isNaN(value) ? text : value; };
  const rows = [...body.rows].map((row) => [key(row), row]);
  // What is not known comes last, whichever way.
  const missing = (value) => Number.isNaN(value);
  rows.sort(([a], [b]) => missing(a) - missing(b) || direction * (typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b));
  body.append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((cell, i) =>
    cell.setAttribute("aria-sort", i !== column ? "none" : direction > 0 ? "ascending" : "descending"));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) =>
    cell.addEventListener("click", () => sort(table, column, cell.getAttribute("aria-sort") === "ascending" ? -1 : 1)));
}

// Back leads to where one was.
history.scrollRestoration = "manual";
document.addEventListener("click", (event) => {
  if (event.target.closest?.('a[href^="#"]')) history.replaceState({ y: window.scrollY }, "");
});

const themeButton = document.getElementById("theme");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themeButton.setAttribute("aria-pressed", String(name === "dark"));
  for (const again of drawn.values()) again();
}

themeButton.addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches ? "dark" : "light"));
setTheme(prefersDark.matches ? "dark" : "light");

// On paper: light, with all pictures of the open page.
let before = null;
window.addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  document.body.classList.add("paper");
  setTheme("light");
  document.querySelectorAll("article.page:not([hidden]) .plot").forEach(show);
  document.querySelectorAll("article.page:not([hidden]) .js-plotly-plot").forEach((div) => Plotly.Plots.resize(div));
});
window.addEventListener("afterprint", () => {
  document.body.classList.remove("paper");
  setTheme(before);
});

window.addEventListener("hashchange", () => open(location.hash.slice(1), history.state?.y));
open(location.hash.slice(1));
document.querySelectorAll(".plot").forEach((div) => seen.observe(div));
