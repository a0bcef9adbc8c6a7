"use strict";
// Asks the router once a second, and draws. All text goes in as text, never as markup.

const EVERY_MS = 1000;
const REMEMBERED = 300; // polls
const history = []; // {at, tokens, busy: {worker: seconds}}
const jobs_seen = new Map(); // job -> {at, done}, when it was seen first
let chosen = null; // job whose report is shown; the newest one until another is asked for
const by_id = (id) => document.getElementById(id);

function element(tag, fields = {}, ...children) {
  const made = ["svg", "rect", "polyline", "title"].includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const whole = (number) => Math.round(number).toLocaleString("en");
const percent = (share) => `${Math.round(100 * Math.min(Math.max(share, 0), 1))} %`;

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  return hours ? `${hours} h ${minutes % 60} min` : minutes ? `${minutes} min` : `${Math.ceil(seconds)} s`;
}

async function ask(path) {
  const key = sessionStorage.getItem("key");
  const answer = await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {}, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) throw new Refused();
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

class Refused extends Error {}

function bar(...parts) {
  const drawn = element("div", { class: "bar" });
  for (const [name, share] of parts) {
    const part = element("i", { class: name });
    part.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    drawn.append(part);
  }
  return drawn;
}

function draw_worker(worker, busy) {
  const title = element("strong", {}, worker.worker_id);
  const card = element("li", { class: worker.role + (worker.ready ? "" : " waiting") }, title);
  const tell = (text) => card.append(element("div", { class: "faint" }, text));
  if (worker.layers) tell(`layers ${worker.layers[0]} to ${worker.layers[1] - 1}`);
  if (!worker.ready) tell("not ready yet");
  if (worker.role !== "kv_manager") {
    tell(`${percent(busy)} busy · ${worker.kernel_path}`);
    card.append(bar([worker.role === "layer_worker" ? "tier1" : "tier2", busy]));
  }
  if (worker.pool && worker.pages) {
    const { free, held, cached } = worker.pool;
    tell(`pages: ${whole(held)} held, ${whole(cached)} cached, ${whole(free)} free`);
    card.append(bar(["tier2", held / worker.pages], ["wait", cached / worker.pages]));
  }
  return card;
}

function draw_workers(status, busy_of) {
  const places = { layer_worker: "tier1", attention_worker: "tier2", kv_manager: "manager" };
  for (const [role, place] of Object.entries(places)) {
    const workers = status.workers.filter((worker) => worker.role === role);
    workers.sort((a, b) => (a.layers?.[0] ?? 0) - (b.layers?.[0] ?? 0) || a.worker_id.localeCompare(b.worker_id));
    const cards = workers.map((worker) => draw_worker(worker, busy_of(worker)));
    by_id(place).replaceChildren(...(cards.length ? cards : [element("li", { class: "waiting" }, "none yet")]));
  }
}

function draw_now(status, rate) {
  const { totals, requests, in_flight } = status;
  const standing = (...names) => whole(names.reduce((sum, name) => sum + (requests[name] ?? 0), 0));
  const shown = [
    ["generated tokens/s", whole(rate)],
    ["microbatches in flight", `${in_flight.now} of ${in_flight.limit}`],
    ["requests running", standing("ready", "in_flight", "starving")],
    ["requests waiting", standing("waiting", "following", "reserving")],
    ["tokens generated", whole(totals.generated_tokens)],
    ["lines done", whole(totals.lines)],
  ];
  draw_numbers("now", shown);
}

// One lane per microbatch in flight; a bar from leaving to homecoming, filled by where its time went.
function draw_steps(steps) {
  if (!steps.length) { by_id("steps").replaceChildren("no microbatch yet"); return; }
  const start = Math.min(...steps.map((step) => step.sent_s)), end = Math.max(...steps.map((step) => step.home_s));
  const lanes = [], width = 1000, height = 18;
  const x = (at) => (width * (at - start)) / Math.max(end - start, 1e-6);
  const svg = element("svg", { preserveAspectRatio: "none" });
  for (const step of [...steps].sort((a, b) => a.sent_s - b.sent_s)) {
    let lane = lanes.findIndex((free_at) => free_at <= step.sent_s + 1e-6);
    if (lane < 0) lane = lanes.length;
    lanes[lane] = step.home_s;
    const span = Math.max(step.home_s - step.sent_s, 1e-6);
    const parts = [["tier1", step.tier1_s], ["tier2", step.tier2_s], ["queue", step.queue_s]];
    parts.push(["wait", Math.max(span - parts.reduce((sum, part) => sum + part[1], 0), 0)]);
    let from = step.sent_s;
    for (const [name, seconds] of parts) {
      const to = Math.min(from + seconds, step.home_s);
      const part = element("rect", { x: x(from), y: lane * (height + 4), width: Math.max(x(to) - x(from), 0), height });
      part.style.fill = `var(--${name})`;
      part.append(element("title", {}, `${step.num_rows} rows, ${(1000 * span).toFixed(1)} ms; ${name} ${(1000 * seconds).toFixed(1)} ms`));
      svg.append(part);
      from = to;
    }
  }
  const tall = Math.max(lanes.length, 1) * (height + 4);
  svg.setAttribute("viewBox", `0 0 ${width} ${tall}`);
  svg.style.height = `${tall}px`;
  const caption = element("div", { class: "faint" }, `${steps.length} microbatches in ${(1000 * (end - start)).toFixed(0)} ms`);
  by_id("steps").replaceChildren(svg, caption);
}

function plot(place, points, caption) {
  const most = Math.max(...points, 1);
  const line = points.map((value, i) => `${(600 * i) / Math.max(points.length - 1, 1)},${130 - (120 * value) / most}`).join(" ");
  const svg = element("svg", { viewBox: "0 0 600 135", preserveAspectRatio: "none" },
    element("polyline", { points: line, fill: "none", "stroke-width": 2, stroke: "var(--tier1)", "vector-effect": "non-scaling-stroke" }));
  by_id(place).replaceChildren(svg, element("div", { class: "faint" }, caption(most)));
}

function draw_rate() {
  const points = [];
  for (let i = 1; i < history.length; i += 1) {
    const seconds = (history[i].at - history[i - 1].at) / 1000;
    points.push(Math.max(history[i].tokens - history[i - 1].tokens, 0) / seconds);
  }
  plot("rate", points, (most) => `${whole(most)} at most in the last ${duration(points.length)}`);
}

function draw_numbers(place, shown) {
  by_id(place).replaceChildren(...shown.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function draw_report(job, report) {
  by_id("reported").textContent = job ? `Report of ${job}` : "Report";
  if (!report) { by_id("pace").replaceChildren("nothing to report yet"); by_id("report").replaceChildren(); return; }
  const sum = (sizes) => Object.values(sizes).reduce((all, size) => all + size, 0);
  const points = report.tokens_per_s.length > 1 ? report.tokens_per_s : [0, ...report.tokens_per_s];
  plot("pace", points, (most) => `generated tokens/s over ${duration(report.wall_s)}, ${whole(most)} at most`);
  const shown = [
    ["output tokens/s", whole(report.output_tokens_per_s)],
    ["tokens generated", whole(report.generated_tokens)],
    ["tier 1 busy", percent(report.tier1_busy)],
    ["tier 2 busy", percent(report.tier2_busy)],
    ["MB moved", whole(sum(report.bytes_per_link) / 1e6)],
    ["prefix hits", percent(report.prefix_hit_rate)],
    ["tokens recomputed", whole(sum(report.recomputed_tokens))],
  ];
  if (report.cost !== null) shown.push(["cost", report.cost.toPrecision(3)]);
  draw_numbers("report", shown);
}

function draw_jobs(batches) {
  const rows = batches.map((batch) => {
    const { total, completed, failed } = batch.request_counts;
    const done = completed + failed;
    const seen = jobs_seen.get(batch.id) ?? { at: performance.now(), done };
    jobs_seen.set(batch.id, seen);
    const per_second = (done - seen.done) / ((performance.now() - seen.at) / 1000);
    const open = batch.status === "in_progress" || batch.status === "validating";
    const left = open && per_second > 0 ? duration((total - done) / per_second) : "–";
    const lines = element("td", {}, `${whole(done)} of ${whole(total)}`, bar(["tier1", total ? done / total : 0]));
    const bad = element("td", failed ? { class: "bad" } : {}, whole(failed));
    const name = element("button", { type: "button", "data-job": batch.id, "aria-pressed": batch.id === chosen }, batch.id);
    return element("tr", {}, element("td", {}, name), element("td", {}, batch.status), lines, bad, element("td", {}, left));
  });
  const none = element("tr", {}, element("td", { colspan: 5, class: "faint" }, "none yet"));
  const focused = document.activeElement?.dataset?.job;
  by_id("jobs").replaceChildren(...(rows.length ? rows : [none]));
  if (focused) by_id("jobs").querySelector(`[data-job="${CSS.escape(focused)}"]`)?.focus();
}

function draw_errors(status) {
  const lines = status.missing.map((text) => `missing: ${text}`);
  if (status.totals.failed_microbatches) lines.push(`${whole(status.totals.failed_microbatches)} microbatches failed and travelled again`);
  for (const worker of status.workers) if (!worker.ready) lines.push(`${worker.worker_id} is not ready`);
  by_id("errors").replaceChildren(...(lines.length ? lines : ["none"]).map((text) => element("li", {}, text)));
}

function take(status) {
  const busy = Object.fromEntries(status.workers.map((worker) => [worker.worker_id, worker.busy_s]));
  history.push({ at: performance.now(), tokens: status.totals.generated_tokens, busy });
  if (history.length > REMEMBERED) history.shift();
  const then = history[Math.max(history.length - 6, 0)], now = history.at(-1);
  const seconds = Math.max((now.at - then.at) / 1000, 0.001);
  const rate = history.length > 1 ? Math.max(now.tokens - then.tokens, 0) / seconds : 0;
  draw_now(status, rate);
  draw_workers(status, (worker) => ((worker.busy_s ?? 0) - (then.busy[worker.worker_id] ?? worker.busy_s ?? 0)) / seconds);
  draw_errors(status);
  draw_rate();
}

async function turn() {
  try {
    const [status, steps, batches] = await Promise.all([ask("/admin/status"), ask("/admin/steps"), ask("/v1/batches?limit=20")]);
    by_id("keys").hidden = true;
    by_id("model").textContent = status.model;
    by_id("state").textContent = status.ready ? "ready" : "waiting for workers";
    by_id("state").className = status.ready ? "" : "bad";
    take(status);
    draw_steps(steps.steps);
    const job = chosen ?? batches.data[0]?.id;
    draw_jobs(batches.data);
    draw_report(job, job ? await ask(`/admin/jobs/${encodeURIComponent(job)}/report`) : null);
  } catch (error) {
    by_id("keys").hidden = !(error instanceof Refused);
    by_id("state").textContent = error instanceof Refused ? "locked" : "the router does not answer";
    by_id("state").className = "bad";
  }
  setTimeout(turn, EVERY_MS);
}

by_id("keys").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", event.target.querySelector("input").value);
});
by_id("jobs").addEventListener("click", (event) => { chosen = event.target.closest("button")?.dataset.job ?? chosen; });
turn();
