// The page: which model is shown, which session is watched, and what comes from the server meanwhile.

import { Heats } from "./heat.js";
import { Plot } from "./plot.js";
import { byId, bytes, duration, element, number, pairs, seconds, size } from "./shown.js";
import { ask, follow, use } from "./stream.js";

const AGAIN = 2000;
const key = (name, version) => JSON.stringify([name, version]);
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const page = { models: [], chosen: null, points: [], span: 300, figures: {}, watching: null, live: null };
const heats = new Heats(byId("heat"));
let plots = [];

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text;
}

function status(text, kind) {
  byId("status").textContent = text;
  byId("status").className = `status ${kind}`;
}

document.addEventListener("locked", () => { byId("key").hidden = false; });
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  use(byId("token").value.trim());
  location.reload();
});

async function begin() {
  const found = await ask("models");
  const at = Object.fromEntries(found.figures.map((name, place) => [name, place]));
  Object.assign(page, { models: found.models, span: found.seconds, figures: at, build: found.build });
  if (!plots.length) {
    plots = [
      new Plot("Throughput", [["steps a second", at.steps]], number),
      new Plot("Batch", [["rows of a run", at.rows]], number),
      new Plot("Run of the model", [["median", at.run_p50], ["99 %", at.run_p99]], seconds),
      new Plot("Wait in the queue", [["median", at.queue_p50], ["99 %", at.queue_p99]], seconds),
    ];
    byId("plots").replaceChildren(...plots.map((plot) => plot.figure));
  }
  byId("models").replaceChildren(...found.models.map(({ name, version }) => {
    const button = element("button");
    button.append(element("span", `${name}/${version}`), element("small"));
    button.dataset.key = key(name, version);
    button.addEventListener("click", () => choose(name, version));
    const item = element("li");
    item.append(button);
    return item;
  }));
  const still = found.models.find((model) => page.chosen && key(model.name, model.version) === key(...page.chosen));
  const first = still ?? found.models.toSorted((a, b) => b.sessions - a.sessions)[0];
  if (first) await choose(first.name, first.version);
  else byId("name").textContent = "No model is served";
}

async function choose(name, version) {
  page.chosen = [name, version];
  for (const button of byId("models").querySelectorAll("button")) {
    if (button.dataset.key === key(name, version)) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  try {
    const model = await ask("model", { name, version });
    if (key(...page.chosen) !== key(name, version)) return;
    const figures = new Float64Array(bytes(model.history)), width = Object.keys(page.figures).length;
    page.points = Array.from({ length: figures.length / width }, (_, i) => [...figures.subarray(i * width, (i + 1) * width)]);
    describe(model);
    draw();
    await sessions();
  } catch (error) {
    trouble(error.message);
  }
}

function describe(model) {
  page.model = model;
  byId("name").textContent = `${model.name}/${model.version}`;
  byId("what").textContent = model.streamable ? `${model.runtime} on ${model.device}` : `without sessions: ${model.reason}`;
  const rows = [["input", model.inputs], ["state", model.states], ["output", model.outputs]].flatMap(([role, tensors]) =>
    tensors.map((tensor) => {
      const row = element("tr");
      const named = role === "state" ? `${tensor.input} ← ${tensor.output}` : tensor.name;
      row.append(element("td", role, "soft"), element("td", named), element("td", tensor.dtype), element("td", `[${tensor.shape.join(", ")}]`));
      return row;
    }));
  byId("tensors").replaceChildren(...rows);
  pairs(byId("spec"), [
    ["a session's state", `${size(model.row_bytes)} a row`],
    ["rows of a run", `${model.max_batch} at most`],
    ["sha256", model.digest],
    ...(model.note ? [["note", model.note]] : []),
  ]);
  prove(model.proof);
}

function prove(proof) {
  const line = byId("proof-line");
  line.className = proof.why ? "unproven" : "proven";
  line.textContent = proof.why ?? `The served file gave what the module gives in ${proof.cases} cases: batches and lengths unlike the example's, and cut into chunks.`;
  pairs(byId("proof"), proof.why ? [] : [
    ["largest error", proof.worst_error.toExponential(1), `of ${proof.tolerance.toExponential(1)} allowed`],
    ["the module's own", proof.own_error.toExponential(1), `against itself in ${proof.reference}`],
    ["made by", proof.recipe, proof.form],
    ["with", Object.entries(proof.versions).map((entry) => entry.join(" ")).join(", ")],
  ]);
  for (const [box, list, texts] of [["assumed", "assumptions", proof.assumptions], ["noted", "notes", proof.notes]]) {
    byId(box).hidden = !texts?.length;
    byId(list).replaceChildren(...(texts ?? []).map((text) => element("li", text)));
  }
}

async function sessions() {
  const [name, version] = page.chosen;
  const found = await ask("sessions", { name, version });
  if (key(...page.chosen) !== key(name, version)) return;
  byId("sessions-count").textContent = found.all > found.sessions.length && found.sessions.length ? `${found.sessions.length} used last, of ${number(found.all)}` : number(found.all);
  byId("no-sessions").hidden = found.sessions.length > 0;
  const focused = document.activeElement?.dataset?.session;
  // The newest first: by their last use they would change places all the time.
  const sorted = found.sessions.toSorted((a, b) => a.age - b.age || (a.id < b.id ? -1 : 1));
  byId("sessions").replaceChildren(...sorted.map((session) => {
    const row = element("tr", "", session.id === page.watching?.id ? "watched" : "");
    const name = element("td");
    name.append(element("code", session.id));
    const button = element("button", "Watch");
    button.dataset.session = session.id;
    button.setAttribute("aria-label", `Watch ${session.id}`);
    button.addEventListener("click", () => watch(session.id));
    const last = element("td");
    last.append(button);
    row.append(
      name,
      element("td", session.state + (session.durable ? ", durable" : "")),
      element("td", session.step_index.toLocaleString("en"), "n"),
      element("td", String(session.batch), "n wide"),
      element("td", duration(session.age), "n wide"),
      element("td", duration(session.idle), "n wide"),
      last,
    );
    return row;
  }));
  if (focused) byId("sessions").querySelector(`button[data-session="${CSS.escape(focused)}"]`)?.focus();
}

function draw() {
  const at = page.figures, last = page.points.at(-1);
  const age = last ? last[0] - page.points[0][0] : 0;
  for (const plot of plots) plot.draw(page.points, Math.min(page.span, 60 * Math.max(1, Math.ceil(age / 60))));
  if (!last) return;
  pairs(byId("tiles"), [
    ["steps a second", number(last[at.steps]), last[at.failed] ? `${number(last[at.failed])} failed` : ""],
    ["rows of a run", number(last[at.rows])],
    ["run, 99 %", seconds(last[at.run_p99])],
    ["queue, 99 %", seconds(last[at.queue_p99]), `${number(last[at.waiting])} waiting`],
    ["sessions", number(last[at.sessions])],
    ["states", size(last[at.state_bytes]), `of ${size(page.model.state_limit_bytes)}`],
  ], true);
}

function tick(content) {
  status(content.ready ? "ready" : "stopping", content.ready ? "good" : "bad");
  trouble("");
  pairs(byId("server"), [
    ["version", page.build.version],
    ["up", duration(content.uptime)],
    ["sessions", number(content.sessions)],
    ...(content.connections === null ? [] : [["connections", number(content.connections)]]),
    ...(content.store === null ? [] : [["store", content.store ? "answers" : "does not answer"]]),
  ], true);
  const known = new Set(content.models.map(([name, version]) => key(name, version)));
  if (known.size < 64 && (known.size !== page.models.length || page.models.some(({ name, version }) => !known.has(key(name, version))))) {
    if (content.models.length) begin().catch((error) => trouble(error.message));
    return;
  }
  for (const [name, version, figures] of content.models) {
    const button = [...byId("models").querySelectorAll("button")].find((one) => one.dataset.key === key(name, version));
    if (button) button.lastChild.textContent = `${number(figures[page.figures.steps])}/s`;
    if (page.chosen && key(name, version) === key(...page.chosen) && !(page.points.at(-1)?.[0] >= figures[0])) {
      page.points.push(figures.map((figure) => figure ?? NaN));
      while (page.points.length > page.span) page.points.shift();
      draw();
    }
  }
  page.ticks = (page.ticks ?? 0) + 1;
  if (page.ticks % 2 === 0 && page.chosen) sessions().catch((error) => trouble(error.message));
}

async function live() {
  const control = (page.live = new AbortController());
  while (!control.signal.aborted) {
    try {
      await begin();
      await follow("live", {}, control.signal, (_, content) => tick(content));
      status("stopped", "bad");
    } catch (error) {
      if (error.name === "AbortError") return;
      status("not reached", "bad");
      trouble(`${error.message}; trying again`);
    }
    await wait(AGAIN);
  }
}

async function watch(id, row = 0) {
  page.watching?.control.abort();
  const watching = { id, row, control: new AbortController() };
  page.watching = watching;
  heats.clear();
  byId("watch").hidden = false;
  byId("watch-id").textContent = id;
  byId("watch-step").textContent = "";
  byId("watch-note").textContent = "";
  for (const line of byId("sessions").children) line.className = line.querySelector("code").textContent === id ? "watched" : "";
  try {
    await follow("watch", { session: id, row }, watching.control.signal, (kind, content) => {
      if (page.watching !== watching) return;
      if (kind === "gone") { byId("watch-note").textContent = content.error; return; }
      byId("watch-step").textContent = `${content.model}/${content.version} · step ${content.step_index.toLocaleString("en")} · ${content.state}`;
      byId("watch-row-label").hidden = content.batch === 1;
      byId("watch-row").max = content.batch - 1;
      heats.take(content.states);
    });
  } catch (error) {
    if (error.name !== "AbortError" && page.watching === watching) byId("watch-note").textContent = error.message;
  }
}

function stop() {
  page.watching?.control.abort();
  page.watching = null;
  byId("watch").hidden = true;
  for (const line of byId("sessions").children) line.className = "";
}

byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("find-id").value.trim();
  if (id) watch(id);
});
byId("watch-stop").addEventListener("click", stop);
byId("watch-row").addEventListener("change", () => watch(page.watching.id, Math.max(0, Math.floor(Number(byId("watch-row").value)) || 0)));
// Nobody looks: the server is left alone.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    page.live?.abort();
    page.watching?.control.abort();
  } else {
    live();
    if (page.watching) watch(page.watching.id, page.watching.row);
  }
});
const redraw = () => { draw(); heats.draw(); };
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
live();
