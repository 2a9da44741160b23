/* Rows of pictures, the enlarged one, and what the reader chooses. */

function gap(row) {
  const first = scoresOf(state.scorer, state.first)[row];
  const second = scoresOf(state.scorer, state.second)[row];
  return first === null || second === null ? null : first - second;
}

function sortKey(row) {
  if (state.sort === "order") return row;
  return state.sort === "gap" ? gap(row) : scoresOf(state.scorer, Number(state.sort))[row];
}

function arrange() {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows
    .map((_, row) => row)
    .filter((row) => words.every((word) => rows[row].prompt.toLowerCase().includes(word)));
  const keyed = found.map((row) => [row, sortKey(row)]);
  const sign = state.sort !== "order" && state.descending ? -1 : 1;
  const compare = ([i, a], [j, b]) => (a === null) - (b === null) || sign * (a - b) || i - j;
  state.order = keyed.sort(compare).map(([row]) => row);
  state.shown = 0;
  byId("gallery").replaceChildren();
  tally();
  showMore();
}

function tally() {
  const line = [`${state.order.length} of ${rows.length} rows`];
  if (count > 1) {
    const gaps = state.order.map(gap);
    const [won, lost] = [gaps.filter((g) => g > 0).length, gaps.filter((g) => isNumber(g) && g < 0).length];
    const unscored = gaps.filter((g) => g === null).length;
    line.push(
      ": ",
      named(state.first),
      ` wins ${won}, `,
      named(state.second),
      ` wins ${lost}, ties ${gaps.length - won - lost - unscored}`,
    );
    if (unscored) line.push(`, without a score ${unscored}`);
  }
  byId("tally").replaceChildren(...line);
}

function showMore() {
  const next = state.order.slice(state.shown, state.shown + PAGE);
  byId("gallery").append(...next.map(galleryRow));
  state.shown += next.length;
  const left = state.order.length - state.shown;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(PAGE, left)} more of ${left}`;
}

function galleryRow(row) {
  const { prompt, seeds } = rows[row];
  const number = (row % numbers.pictures) + 1;
  const seed = new Set(seeds).size === 1 && seeds[0] !== null ? `, seed ${seeds[0]}` : "";
  const about = `prompt ${Math.floor(row / numbers.pictures) + 1}, picture ${number} of ${numbers.pictures}${seed}`;
  const text = element(
    "div",
    {},
    element("p", { class: "prompt", dir: "auto" }, prompt),
    element("p", { class: "about" }, about),
  );
  if (count > 1) text.append(gapLine(row));
  const widest = models.every((_, m) => isTiny(pictureOf(row, m))) ? "200px" : "320px";
  const cells = element(
    "div",
    { class: "cells", style: `--columns: ${count}; --widest: ${widest}` },
    ...models.map((_, m) => cell(row, m)),
  );
  return element("li", {}, text, cells);
}

function gapLine(row) {
  const difference = gap(row);
  if (difference === null) return element("p", { class: "gap" }, "no score to compare");
  if (difference === 0)
    return element("p", { class: "gap" }, "tie of ", named(state.first), " and ", named(state.second));
  const [ahead, behind] = difference > 0 ? [state.first, state.second] : [state.second, state.first];
  const lead = score(Math.abs(difference), state.scorer);
  return element("p", { class: "gap" }, named(ahead), ` is ${lead} ahead of `, named(behind));
}

function outcome(row, model) {
  const difference = gap(row);
  if (difference === null || count === 1 || ![state.first, state.second].includes(model)) return null;
  if (difference === 0) return "tie";
  return difference > 0 === (model === state.first) ? "won" : "lost";
}

function picture(row, model, lazy) {
  const found = pictureOf(row, model);
  if (!found)
    return element(
      "span",
      { class: "missing" },
      "missing or unreadable: ",
      element("bdi", {}, rows[row].files[model]),
    );
  const { source, width, height } = found;
  const alt = `${models[model]}: ${rows[row].prompt}`;
  const look = isTiny(found) ? "pixelated" : "";
  return element("img", {
    src: source,
    width,
    height,
    alt,
    class: look,
    decoding: "async",
    ...(lazy ? { loading: "lazy" } : {}),
  });
}

function cell(row, model) {
  const ended = outcome(row, model);
  const button = element(
    "button",
    {
      type: "button",
      class: `open ${ended ?? ""}`,
      style: color(model),
      "aria-label": `Enlarge ${models[model]}: ${rows[row].prompt}`,
    },
    picture(row, model, true),
  );
  button.addEventListener("click", () => openViewer(row, model));
  const said = scorers.flatMap(({ name }, s) => {
    const look = { class: s === state.scorer ? "chosen" : "" };
    return [element("dt", look, name), element("dd", look, score(scoresOf(s, model)[row], s))];
  });
  const mark = ended ? [element("span", { class: `mark ${ended}` }, ended)] : [];
  return element(
    "figure",
    {},
    button,
    element("figcaption", {}, element("p", { class: "bar" }, named(model), ...mark), element("dl", {}, ...said)),
  );
}

/* Enlarged. */

const viewer = byId("viewer");
const at = { row: 0, model: 0 };

function openViewer(row, model) {
  Object.assign(at, { row, model });
  drawViewer();
  viewer.showModal();
}

function drawViewer() {
  const { row, model } = at;
  const ended = outcome(row, model);
  byId("viewer-title").replaceChildren(
    named(model),
    ended ? ` (${ended})` : "",
    ` · ${state.order.indexOf(row) + 1} of ${state.order.length}`,
  );
  byId("stage").replaceChildren(picture(row, model, false));
  byId("viewer-scores").textContent = scorers
    .map(({ name }, s) => `${name} ${score(scoresOf(s, model)[row], s)}`)
    .join(" · ");
  byId("viewer-prompt").textContent = rows[row].prompt;
}

function step(down, across) {
  const place = state.order.indexOf(at.row) + down;
  at.row = state.order[Math.min(state.order.length - 1, Math.max(0, place))];
  at.model = (at.model + across + count) % count;
  drawViewer();
}

/* Controls. */

function drawAll() {
  for (const place of document.querySelectorAll(".scorer")) place.textContent = scorers[state.scorer].name;
  if (byId("matrix")) drawMatrix();
  drawCharts();
  arrange();
}

function drawCharts() {
  drawDistribution();
  if (byId("sweep")) drawSweep();
}

function listen() {
  for (const radio of document.querySelectorAll("[name=scorer]"))
    radio.addEventListener("change", () => drawAll((state.scorer = Number(radio.value))));
  for (const [side, other] of count > 1
    ? [
        ["first", "second"],
        ["second", "first"],
      ]
    : []) {
    byId(side).value = state[side];
    byId(side).addEventListener("change", () => compare(side, other));
  }
  byId("sort").addEventListener("change", (event) => {
    state.sort = event.target.value;
    labelDirection();
    arrange();
  });
  byId("direction").addEventListener("click", () => {
    state.descending = !state.descending;
    labelDirection();
    arrange();
  });
  byId("filter").addEventListener("input", (event) => arrange((state.filter = event.target.value)));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", showMore);
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  for (const button of viewer.querySelectorAll("[data-step]"))
    button.addEventListener("click", () => step(...button.dataset.step.split(",").map(Number)));
  const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  viewer.addEventListener("keydown", (event) => {
    if (!arrows[event.key]) return;
    event.preventDefault();
    step(...arrows[event.key]);
  });
  addEventListener("resize", drawCharts);
}

/* A model is not compared with itself: the two change places. */
function compare(side, other) {
  const wanted = Number(byId(side).value);
  if (wanted === state[other]) byId(other).value = state[other] = state[side];
  state[side] = wanted;
  arrange();
}

function labelDirection() {
  byId("direction").hidden = state.sort === "order";
  byId("direction").textContent = state.descending ? "↓ largest first" : "↑ smallest first";
}

listen();
labelDirection();
drawAll();
