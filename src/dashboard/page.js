"use strict";
// Draws what /events tells. Everything is text to the browser: nothing of an object becomes markup.

const content = document.getElementById("content");
const link = document.getElementById("link");
const trouble = document.getElementById("trouble");
// The operator says every five seconds that it is there.
const PATIENCE = 15000;
let last, heard, chosen;

function make(kind, attributes, ...children) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

const shown = (value) => (value === undefined || value === null || value === "" ? "–" : String(value));
const time = (text) => (text ? new Date(text).toLocaleTimeString() : "–");

function facts(pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) {
    if (value === undefined || value === null || value === "" || value === false) continue;
    list.append(make("dt", {}, name), make("dd", {}, String(value)));
  }
  return list;
}

function card(mark, name, aside, state, pairs) {
  const head = make("h4", {}, name, make("span", {}, shown(aside)));
  return make("article", { class: "card", "data-mark": mark, "data-name": name }, head, make("p", { class: "state" }, shown(state)), facts(pairs));
}

function table(id, heads, rows) {
  const cell = (value) => (value instanceof Node ? make("td", {}, value) : make("td", { class: /^-?\d+( ?%)?$/.test(value) ? "number" : undefined }, shown(value)));
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
  return make("div", { class: "scroll", id }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const heading = (text) => make("h3", {}, text);
const condition = (status, kind) => (status.conditions ?? []).find((condition) => condition.type === kind);
const isReady = (status) => condition(status, "Ready")?.status === "True";

const MARKS = { Ready: "good", Degraded: "watch", Progressing: "watch", Pending: "watch", Waiting: "none", Aborted: "watch", Stuck: "bad", Down: "bad" };

function service(row, blast) {
  const canary = row.canary && row.canary.phase !== "Aborted" ? `${row.canary.weight} % (${row.canary.step + 1}/${row.canary.steps}) ${row.canary.phase}` : undefined;
  const mark = MARKS[row.phase] === "good" && row.breakersOpen?.length ? "watch" : MARKS[row.phase];
  return card(mark ?? "none", row.name, row.ready, row.phase, [
    ["open breakers", row.breakersOpen?.join(", ")],
    ["queued", row.queued || undefined],
    ["trial", canary],
    ["down since", row.downSince && time(row.downSince)],
    ["goes with it", blast && `${blast.radius} %, ${blast.remaining} % remain`],
    ["", row.message],
  ]);
}

function verdict(status) {
  const ready = condition(status, "Ready");
  if (status.risk && status.risk !== "-") return ["bad", `Customers lose ${status.risk}.`];
  if (!ready) return ["none", "The operator has not looked at it yet."];
  if (ready.status !== "True") return ["watch", ready.message];
  const degraded = condition(status, "Degraded");
  return degraded?.status === "True" ? ["watch", degraded.message] : ["good", `All services serve (${shown(status.ready)}).`];
}

function split(status) {
  const trial = status.readSplit;
  return trial && `${trial.weight} % of order reads go to the split services (${trial.phase}): ${trial.message}`;
}

function platform(one) {
  const { status } = one;
  const [mark, sentence] = verdict(status);
  const blast = new Map((status.blastRadius ?? []).map((row) => [row.part, row]));
  const all = status.services ?? [];
  const parts = [
    make("h2", {}, `${one.namespace}/${one.name}`),
    make("p", { class: "verdict", "data-mark": mark }, sentence),
    make("p", { class: "quiet" }, `${shown(status.ready)} serve · rollout: ${shown(status.rollout)}`),
    split(status) && make("p", { class: "quiet" }, split(status)),
  ];
  for (const tier of ["P0", "P1", "P2"]) {
    const rows = all.filter((row) => row.tier === tier);
    if (rows.length) parts.push(heading(`${tier} · ${shown(status[tier.toLowerCase()])}`), make("div", { class: "cards" }, ...rows.map((row) => service(row, blast.get(row.name)))));
  }
  if (status.stores?.length) {
    const store = (row) => card(row.answers ? "good" : "bad", row.name, "", row.answers ? "answers" : "does not answer", [["since", time(row.since)], ["", row.message]]);
    parts.push(heading("Cache and broker"), make("div", { class: "cards" }, ...status.stores.map(store)));
  }
  return parts;
}

function database(one) {
  const good = isReady(one);
  const members = (one.members ?? []).map((member) => `${member.name} ${member.role} ${member.state}`).join("; ");
  return card(good ? "good" : one.leader ? "watch" : "bad", `${one.namespace}/${one.name}`, one.ready, one.leader ? `leader ${one.leader}` : "no leader", [
    ["may take over", one.sync],
    ["timeline", one.timeline],
    ["lag", one.lag],
    ["members", members],
    ["", good ? undefined : condition(one, "Ready")?.message],
  ]);
}

function pool(one) {
  return card(isReady(one) ? "good" : "watch", `${one.namespace}/${one.name}`, one.ready, `${one.mode} → ${shown(one.target)}`, [
    ["clients", one.clients],
    ["waiting", one.waiting],
    ["last rewire", one.lastRewire && `${one.lastRewire.summary}, ${time(one.lastRewire.at)}`],
    ["", isReady(one) ? undefined : condition(one, "Ready")?.message],
  ]);
}

function data(view) {
  const cards = [...view.databases.map(database), ...view.pools.map(pool)];
  return cards.length ? [heading("Databases and pools"), make("div", { class: "cards", id: "data" }, ...cards)] : [];
}

function calls(view) {
  const all = view.calls.reduce((sum, one) => sum + one.breakers, 0);
  const open = view.calls.flatMap((one) => one.open.map((breaker) => [`${one.namespace}/${one.name}`, `${breaker.dependency}/${breaker.provider}`, breaker.state, time(breaker.since), breaker.reason]));
  const waiting = view.calls.filter((one) => one.queue).map((one) => [`${one.namespace}/${one.name}`, one.queue.depth, one.queue.inquiry, time(one.queue.oldest), one.queue.trouble]);
  const parts = view.calls.length ? [heading("Breakers and queues"), make("p", { id: "breakers" }, `${open.length} of ${all} breakers are not closed.`)] : [];
  if (open.length) parts.push(table("open", ["Caller", "Breaker", "State", "Since", "Why"], open));
  if (waiting.length) parts.push(table("queues", ["Caller", "Waiting", "For people", "Oldest", "Trouble"], waiting));
  return parts;
}

function radius(one, view) {
  const bar = (value, text) => make("meter", { min: 0, max: 100, value, title: text });
  const rows = (one.status.blastRadius ?? []).map((row) => [row.part, bar(row.radius, `${row.radius} %`), `${row.radius} %`, `${row.remaining} %`, row.containedBy?.join(", "), row.flows?.join(", ")]);
  const measured = (one.status.objectives ?? []).filter((row) => row.last).map((row) => [row.part, row.rto, row.last, row.worst, row.met ? "met" : "missed", time(row.at)]);
  const parts = rows.length ? [heading("If this fails"), table("blast", ["Part", "", "Radius", "Remains", "Held up by", "Customers lose"], rows)] : [];
  if (measured.length) parts.push(heading("Was away"), table("objectives", ["Part", "Objective", "Last", "Worst", "", "Until"], measured));
  parts.push(heading("Who uses whom"), graph(one, marks(one, view), chosen, (name) => { chosen = name; draw(); }));
  return parts;
}

function marks(one, view) {
  const all = new Map((one.status.services ?? []).map((row) => [row.name, MARKS[row.phase] ?? "none"]));
  for (const store of one.status.stores ?? []) all.set(store.name, store.answers ? "good" : "bad");
  const databases = view.databases.filter((database) => database.namespace === one.namespace);
  if (databases.length) all.set("postgresql", databases.every((database) => database.leader) ? "good" : "bad");
  return all;
}

function draw() {
  const scroll = window.scrollY;
  trouble.hidden = !last.trouble;
  trouble.textContent = last.trouble ?? "";
  const parts = [...last.platforms.flatMap(platform), ...data(last), ...calls(last), ...last.platforms.flatMap((one) => radius(one, last))];
  if (!parts.length) parts.push(make("p", {}, "There is nothing of mrg.bluebird.id yet. ", make("code", {}, "kubectl apply -f examples/mrg-platform.yaml"), " brings a platform."));
  content.replaceChildren(...parts.filter(Boolean));
  const bad = last.platforms.some((one) => verdict(one.status)[0] === "bad");
  document.title = `${bad ? "✕ " : ""}MRG platform`;
  window.scrollTo(0, scroll);
}

function alive() {
  heard = Date.now();
  link.dataset.state = "live";
  link.textContent = "live";
}

const events = new EventSource("events");
events.addEventListener("message", (event) => {
  last = JSON.parse(event.data);
  alive();
  draw();
});
events.addEventListener("alive", alive);
setInterval(() => {
  if (!heard || Date.now() - heard < PATIENCE) return;
  link.dataset.state = "lost";
  link.textContent = `no news since ${new Date(heard).toLocaleTimeString()}: the operator or the way to it is gone, what stands here is old`;
}, 1000);
