"use strict";
// Shows what /status says, every two seconds. Whatever comes from there is set as text.

const INTERVAL = 2000;
/** Samples that rates are made of: the last ten seconds. */
const SAMPLES = 6;
/** The share of its time from which on a task is called a bottleneck. */
const BUSY = 0.5;

const samples = [];
const cards = new Map();

const at = (id) => document.getElementById(id);
const make = (name, className, parent) => {
  const element = parent.appendChild(document.createElement(name));
  if (className) element.className = className;
  return element;
};
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const count = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const exact = new Intl.NumberFormat("en");
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const bytes = (value) => {
  let unit = 0;
  for (; value >= 1000 && unit < 4; unit++) value /= 1000;
  return `${digits.format(value)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
};
const seconds = (value) => {
  if (value < 1) return `${Math.ceil(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
};

/** The value that a share of the samples does not exceed, between the bounds of its bucket; null without samples. */
function quantile(share, buckets, bounds) {
  const total = sum(buckets);
  if (total === 0) return null;
  let before = 0;
  for (const [bucket, samples] of buckets.entries()) {
    if (before + samples >= share * total) {
      if (bucket >= bounds.length) return bounds.at(-1);
      const low = bucket === 0 ? 0 : bounds[bucket - 1];
      return low + ((share * total - before) / samples) * (bounds[bucket] - low);
    }
    before += samples;
  }
  return bounds.at(-1);
}

/** The stages by how many are before them, in columns. */
function layers(stages) {
  const depth = new Map();
  for (const stage of stages) {
    depth.set(stage.name, Math.max(0, ...stage.from.map((hop) => depth.get(hop.stage) + 1)));
  }
  const columns = [];
  for (const stage of stages) (columns[depth.get(stage.name)] ??= []).push(stage);
  return columns;
}

/** Makes a card for each stage, and a line for each hop. */
function build(status) {
  const topology = at("topology");
  topology.replaceChildren();
  cards.clear();
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.id = "edges";
  topology.append(svg);
  for (const column of layers(status.stages)) {
    const layer = make("div", "layer", topology);
    for (const stage of column) {
      const card = make("article", "", layer);
      card.id = `stage-${stage.name}`;
      const head = make("div", "head", card);
      make("h2", "", head).textContent = stage.name;
      const mark = make("span", "", head);
      const list = make("dl", "", card);
      const shares = make("div", "shares", card);
      const bars = [make("i", "", shares), make("i", "", shares)];
      const hops = stage.from.map((hop) => {
        const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
        svg.append(line);
        return { from: hop.stage, line };
      });
      cards.set(stage.name, { card, mark, list, shares, bars, hops, rows: new Map() });
    }
  }
  place();
}

/** Draws the lines between the cards. */
function place() {
  const topology = at("topology");
  const origin = topology.getBoundingClientRect();
  const is_narrow = getComputedStyle(topology).flexDirection === "column";
  const svg = at("edges");
  if (!svg) return;
  svg.setAttribute("width", topology.scrollWidth);
  svg.setAttribute("height", topology.scrollHeight);
  const x = (value) => value - origin.left + topology.scrollLeft;
  const y = (value) => value - origin.top;
  for (const { card, hops } of cards.values()) {
    const to = card.getBoundingClientRect();
    for (const { from, line } of hops) {
      const box = cards.get(from).card.getBoundingClientRect();
      const [x1, y1, x2, y2] = is_narrow
        ? [x(box.left + box.width / 2), y(box.bottom), x(to.left + to.width / 2), y(to.top)]
        : [x(box.right), y(box.top + box.height / 2), x(to.left), y(to.top + to.height / 2)];
      const bend = is_narrow ? (y2 - y1) / 2 : (x2 - x1) / 2;
      const [c1, c2] = is_narrow ? [`${x1} ${y1 + bend}`, `${x2} ${y2 - bend}`] : [`${x1 + bend} ${y1}`, `${x2 - bend} ${y2}`];
      line.setAttribute("d", `M ${x1} ${y1} C ${c1}, ${c2}, ${x2} ${y2}`);
    }
  }
}

/** What a stage did between two samples. */
function change(stage, before, passed) {
  const rate = (name) => ((stage.counts[name] ?? 0) - (before?.counts[name] ?? 0)) / passed;
  const buckets = (name) => stage[name].map((samples, bucket) => samples - (before?.[name][bucket] ?? 0));
  const tasks = stage.tasks.map((task) => {
    const was = before?.tasks.find((other) => other.task === task.task);
    return task.spent.map((spent, what) => Math.max(0, spent - (was?.spent[what] ?? 0)));
  });
  const shares = tasks.map((spent) => spent.map((part) => part / Math.max(sum(spent), 1e-9)));
  const share = (what) => Math.max(0, ...shares.map((of_task) => of_task[what]));
  return { rate, buckets, busy: share(0), waiting: share(2) };
}

/** Sets a line of a card; it is taken away where there is nothing to say. */
function line(view, name, value, className = "") {
  let row = view.rows.get(name);
  if (value === null) {
    row?.line.remove();
    view.rows.delete(name);
    return;
  }
  if (!row) {
    const line = make("div", "", view.list);
    const term = make("dt", "", line);
    term.textContent = term.title = name;
    row = { line, value: make("dd", "", line) };
    view.rows.set(name, row);
  }
  row.value.textContent = value;
  row.value.className = className;
}

function show(status) {
  const names = (of) => of.stages.map((stage) => stage.name + stage.from.map((hop) => `<${hop.stage}`)).join();
  if (cards.size === 0 || (samples.length && names(samples.at(-1)) !== names(status))) build(status);
  // A process that began anew counts from zero.
  const total = (of) => sum(of.stages.map((stage) => stage.counts.rows_in ?? 0));
  if (samples.length && total(samples.at(-1)) > total(status)) samples.length = 0;
  samples.push(status);
  if (samples.length > SAMPLES) samples.shift();
  const first = samples[0];
  const passed = Math.max(status.now - first.now, 1e-3);

  document.title = `${status.pipeline} – Fidelio`;
  at("pipeline").textContent = status.pipeline;
  at("version").textContent = `Fidelio ${status.version}`;
  const health = at("health");
  health.textContent = status.troubles.length ? status.troubles.join("\n") : "ready";
  health.className = status.troubles.length ? "bad" : "good";

  const changes = new Map();
  for (const stage of status.stages) {
    const before = first === status ? stage : first.stages.find((other) => other.name === stage.name);
    changes.set(stage.name, change(stage, before, passed));
  }
  const busiest = [...changes].reduce((a, b) => (b[1].busy > a[1].busy ? b : a), ["", { busy: 0 }]);
  for (const stage of status.stages) {
    const view = cards.get(stage.name);
    const { rate, buckets, busy, waiting } = changes.get(stage.name);
    const running = stage.tasks.filter((task) => task.is_running).length;
    const is_bottleneck = busiest[0] === stage.name && busy >= BUSY;
    const restarts = sum(stage.tasks.map((task) => task.restarts));

    view.mark.textContent = is_bottleneck ? "bottleneck" : `${stage.kind} · ${running}/${stage.tasks.length}`;
    view.mark.className = is_bottleneck ? "mark" : "";
    view.mark.title = `a stage of the kind ${stage.kind}; ${running} of its ${stage.tasks.length} tasks in this process run`;
    const rows = stage.kind === "source" ? "rows_out" : "rows_in";
    line(view, "rows/s", first === status ? "–" : count.format(rate(rows)));
    line(view, "rows", exact.format(stage.counts[rows] ?? 0));
    const lag = quantile(0.95, buckets("event_lags"), status.bounds) ?? quantile(0.95, stage.event_lags, status.bounds);
    line(view, "event lag p95", lag === null ? null : seconds(lag));
    const own = quantile(0.95, buckets("lags"), status.bounds) ?? quantile(0.95, stage.lags, status.bounds);
    line(view, "lag p95", own === null ? "–" : seconds(own));
    if (stage.from.length || stage.behind > 0) {
      line(view, "behind", stage.behind_seconds > 0 ? seconds(stage.behind_seconds) : "caught up", stage.behind_seconds > 60 ? "warn" : "");
    }
    line(view, "dead letters", exact.format(stage.dead_letters), stage.dead_letters ? "warn" : "");
    line(view, "late", stage.counts.late ? exact.format(stage.counts.late) : null, "warn");
    line(view, "restarts", restarts ? exact.format(restarts) : null, "warn");
    if (stage.state) {
      const { rows: kept, bytes: used, limit } = stage.state;
      line(view, "state", `${bytes(used)} of ${bytes(limit)}`, used > 0.8 * limit ? "warn" : "");
      line(view, "state rows", exact.format(kept));
    }
    line(view, "watermark", stage.watermark === null ? null : new Date(stage.watermark * 1000).toISOString().slice(0, 16).replace("T", " "));
    for (const hop of stage.from) {
      const wrong = [hop.lost ? `${exact.format(hop.lost)} lost` : "", hop.repeated ? `${exact.format(hop.repeated)} repeated` : ""];
      line(view, `from ${hop.stage}`, wrong.filter(Boolean).join(", ") || "0 lost", hop.lost + hop.repeated ? "bad" : "good");
      view.hops.find((other) => other.from === hop.stage).line.setAttribute("class", hop.lost + hop.repeated ? "bad" : "");
    }
    view.bars[0].style.width = `${busy * 100}%`;
    view.bars[1].style.width = `${waiting * 100}%`;
    view.shares.title = `busy ${Math.round(busy * 100)} %, backpressured ${Math.round(waiting * 100)} % of the time`;
    const is_bad = stage.from.some((hop) => hop.lost + hop.repeated) || running < stage.tasks.filter((task) => task.restarts).length;
    view.card.className = is_bad ? "bad" : is_bottleneck ? "bottleneck" : "";
  }
  place();
}

async function watch() {
  try {
    const answer = await fetch("/status", { signal: AbortSignal.timeout(10 * INTERVAL) });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    show(await answer.json());
    document.body.dataset.shown = samples.length;
  } catch (error) {
    at("health").textContent = `no answer: ${error.message}`;
    at("health").className = "bad";
  }
  setTimeout(watch, document.hidden ? 5 * INTERVAL : INTERVAL);
}

addEventListener("resize", place);
watch();
