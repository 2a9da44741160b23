/* Distributions, guidance curves and the table of win rates, drawn anew for each scorer. */

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough) * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++)
    found.push([i * step, minus((i * step).toFixed(digits))]);
  return found;
}

function frame(holder, label, height, left) {
  const width = Math.max(280, holder.clientWidth - 24);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  holder.replaceChildren(svg);
  return { svg, left, right: width - 14, linear: (a, b, from, to) => (v) => from + ((v - a) / (b - a)) * (to - from) };
}

const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;

/* Few outliers shall not press all others into a corner: ends of the axis, and how many scores lie beyond them. */
function bulk(sorted) {
  const [low, high] = [quantile(sorted, 0.005), quantile(sorted, 0.995)];
  const room = (high - low) * 0.25;
  const [from, to] = [Math.max(sorted[0], low - room), Math.min(sorted.at(-1), high + room)];
  return [from, to, sorted.filter((s) => s < from || s > to).length];
}

function drawDistribution() {
  const samples = models.map((_, m) =>
    scoresOf(state.scorer, m)
      .filter(isNumber)
      .sort((a, b) => a - b),
  );
  const all = samples.flat().sort((a, b) => a - b);
  const holder = byId("distribution");
  if (!all.length) return holder.replaceChildren("No picture has a score.");
  const [low, high, outside] = bulk(all);
  const pad = (high - low) * 0.06 || Math.abs(low) * 0.05 || 1;
  const lane = 12;
  const bottom = 230;
  const height = bottom + lane * count + 28;
  const { svg, left, right, linear } = frame(holder, `Distributions of ${scorers[state.scorer].name}`, height, 14);
  const x = linear(low - pad, high + pad, left, right);
  const grid = Array.from({ length: 240 }, (_, i) => low - pad + ((high - low + 2 * pad) * i) / 239);
  const curves = samples.map((sorted) => (sorted.length ? density(sorted, grid) : grid.map(() => 0)));
  const y = linear(
    0,
    curves.flat().reduce((a, b) => Math.max(a, b)),
    bottom,
    10,
  );
  for (const [at, text] of ticks(low - pad, high + pad, right / 110)) {
    svg.append(drawn("line", { class: "grid", x1: x(at), x2: x(at), y1: 6, y2: height - 22 }));
    svg.append(drawn("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, text));
  }
  svg.append(drawn("line", { class: "grid", x1: left, x2: right, y1: bottom, y2: bottom }));
  byId("outside").textContent = outside ? ` ${outside} of ${all.length} scores lie outside of this range.` : "";
  samples.forEach((sorted, m) => {
    if (!sorted.length) return;
    const points = grid.map((at, i) => [x(at), y(curves[m][i])]);
    const median = x(quantile(sorted, 0.5));
    const top = bottom + 5 + lane * m;
    const rug = sorted
      .filter((s) => s >= low && s <= high)
      .map((s) => `M${x(s).toFixed(1)},${top}v${lane - 4}`)
      .join("");
    const title = drawn("title", {}, `${models[m]}: median ${score(quantile(sorted, 0.5), state.scorer)}`);
    svg.append(
      drawn(
        "g",
        { style: color(m), class: again(m) },
        title,
        drawn("path", { class: "area", opacity: FAINT, d: `${path(points)}L${right},${bottom}L${left},${bottom}Z` }),
        drawn("path", { class: "curve", d: path(points) }),
        drawn("line", { class: "median", x1: median, x2: median, y1: 10, y2: top + lane - 4 }),
        drawn("path", { class: "ticks", d: rug }),
      ),
    );
  });
}

function drawSweep() {
  const scorer = scorers[state.scorer].name;
  const curves = Object.entries(numbers.sweep.curves).map(([name, of]) => [models.indexOf(name), of[scorer]]);
  const points = curves.flatMap(([, curve]) => curve);
  const scales = [...new Set(points.map((p) => p.scale))].sort((a, b) => a - b);
  const low = Math.min(...points.map((p) => p.low));
  const high = Math.max(...points.map((p) => p.high));
  const pad = (high - low) * 0.08 || 1;
  const { svg, left, right, linear } = frame(byId("sweep"), `Mean ${scorer} against guidance scale`, 300, 58);
  const margin = (scales.at(-1) - scales[0]) * 0.04 || 1;
  const x = linear(scales[0] - margin, scales.at(-1) + margin, left, right);
  const y = linear(low - pad, high + pad, 264, 10);
  for (const [at, text] of ticks(low - pad, high + pad, 5)) {
    svg.append(drawn("line", { class: "grid", x1: left, x2: right, y1: y(at), y2: y(at) }));
    svg.append(drawn("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, text));
  }
  let free = 0;
  for (const scale of scales.filter((s) => x(s) >= free && (free = x(s) + 30)))
    svg.append(drawn("text", { x: x(scale), y: 282, "text-anchor": "middle" }, scale));
  svg.append(drawn("text", { x: (left + right) / 2, y: 298, "text-anchor": "middle" }, "guidance scale"));
  for (const [m, curve] of curves) {
    const band = [
      ...curve.map((p) => [x(p.scale), y(p.low)]),
      ...curve.toReversed().map((p) => [x(p.scale), y(p.high)]),
    ];
    const group = drawn(
      "g",
      { style: color(m), class: again(m) },
      drawn("path", { class: "area", opacity: FAINT, d: `${path(band)}Z` }),
    );
    group.append(drawn("path", { class: "curve", d: path(curve.map((p) => [x(p.scale), y(p.mean)])) }));
    for (const p of curve) {
      const title = drawn("title", {}, `${models[m]} at ${p.scale}: ${range(p)}`);
      group.append(drawn("circle", { class: "dot", cx: x(p.scale), cy: y(p.mean), r: 4 }, title));
      if (p.scale === numbers.sweep.chosen[models[m]])
        group.append(drawn("circle", { class: "ring", cx: x(p.scale), cy: y(p.mean), r: 9 }));
    }
    svg.append(group);
  }
  const heads = scales.map((scale) => element("th", { scope: "col", class: "number" }, `${scale}`));
  const lines = curves.map(([m, curve]) => {
    const at = new Map(curve.map((p) => [p.scale, range(p)]));
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, named(m)),
      ...scales.map((s) => element("td", { class: "number" }, at.get(s) ?? "–")),
    );
  });
  byId("sweep-table").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "scale"), ...heads)),
    element("tbody", {}, ...lines),
  );
}

const range = (p) => `${score(p.mean, state.scorer)} [${score(p.low, state.scorer)}, ${score(p.high, state.scorer)}]`;

function winRate(a, b) {
  const scorer = scorers[state.scorer].name;
  for (const pair of numbers.pairs) {
    if (pair.metric !== scorer) continue;
    if (pair.a === models[a] && pair.b === models[b]) return [pair.win_rate, pair.win_rate_low, pair.win_rate_high];
    if (pair.a === models[b] && pair.b === models[a])
      return [1 - pair.win_rate, 1 - pair.win_rate_high, 1 - pair.win_rate_low];
  }
  return null;
}

function drawMatrix() {
  const cell = (a, b) => {
    const found = a === b ? null : winRate(a, b);
    if (!found) return element("td", { class: "quiet" }, "·");
    const [rate, low, high] = found;
    const kind = low > 0.5 ? "ahead" : high < 0.5 ? "behind" : "";
    return element("td", { class: kind }, percent(rate), element("span", { class: "interval" }, interval(low, high)));
  };
  const heads = models.map((_, m) => element("th", { scope: "col" }, named(m)));
  const lines = models.map((_, a) =>
    element("tr", {}, element("th", { scope: "row" }, named(a)), ...models.map((_, b) => cell(a, b))),
  );
  byId("matrix").replaceChildren(
    element("thead", {}, element("tr", {}, element("td"), ...heads)),
    element("tbody", {}, ...lines),
  );
}

function quantile(sorted, q) {
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.ceil(at)] - sorted[low]);
}

/* Gaussian kernels, Silverman's bandwidth; never so narrow that one model's spike flattens the others. */
function density(sorted, grid) {
  const mean = sorted.reduce((sum, x) => sum + x, 0) / sorted.length;
  const deviation = Math.sqrt(sorted.reduce((sum, x) => sum + (x - mean) ** 2, 0) / sorted.length);
  const middle = (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 1.34 || deviation;
  const narrowest = (grid.at(-1) - grid[0]) / 80;
  const width = Math.max(narrowest, 0.9 * Math.min(deviation, middle) * sorted.length ** -0.2);
  const norm = sorted.length * width * Math.sqrt(2 * Math.PI);
  return grid.map((x) => sorted.reduce((sum, s) => sum + Math.exp(-0.5 * ((x - s) / width) ** 2), 0) / norm);
}
