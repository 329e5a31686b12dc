"use strict";
// Who uses whom: services by tier on the left, what they run on and who is outside on the right.

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 190, HIGH = 26, STEP = 34, GAP = 16;

function drawing(kind, attributes, ...children) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Places of the parts: [name, x, y], groups apart from one another.
function column(groups, x) {
  const places = new Map();
  let y = 10;
  for (const group of groups.filter((group) => group.length)) {
    for (const name of group) {
      places.set(name, { x, y });
      y += STEP;
    }
    y += GAP;
  }
  return { places, height: y };
}

// `marks` says of a part whether it is well; parts that nobody uses are left out.
function graph(platform, marks, chosen, choose) {
  const used = new Set(platform.links.flatMap((link) => [link.from, link.to]));
  const tiers = new Map((platform.status.services ?? []).map((service) => [service.name, service.tier]));
  const names = (kind) => platform.parts.filter((part) => part.kind === kind && used.has(part.name)).map((part) => part.name);
  const services = names("service");
  const left = column(["P0", "P1", "P2", undefined].map((tier) => services.filter((name) => tiers.get(name) === tier)), 120);
  const right = column([names("infrastructure"), names("external")], 700);
  const place = (name) => left.places.get(name) ?? right.places.get(name);
  const near = new Set(platform.links.filter((link) => link.from === chosen || link.to === chosen).flatMap((link) => [link.from, link.to]));
  const svg = drawing("svg", { viewBox: `0 0 1010 ${Math.max(left.height, right.height)}`, role: "img", "aria-label": "Who uses whom" });
  if (near.size) svg.classList.add("chosen");
  for (const link of platform.links) {
    const [from, to] = [place(link.from), place(link.to)];
    if (!from || !to) continue;
    const [y1, y2] = [from.y + HIGH / 2, to.y + HIGH / 2];
    // Between services the line goes round on the left.
    const bow = 30 + Math.abs(y1 - y2) / 5;
    const way = from.x === to.x
      ? `M${from.x},${y1} C${from.x - bow},${y1} ${to.x - bow},${y2} ${to.x},${y2}`
      : `M${from.x + WIDE},${y1} C${from.x + WIDE + 150},${y1} ${to.x - 150},${y2} ${to.x},${y2}`;
    const title = drawing("title", {});
    title.textContent = `${link.from} → ${link.to}` + (link.by ? `, held up by ${link.by}` : "");
    const path = drawing("path", { d: way, "data-coupling": link.coupling }, title);
    if (marks.get(link.to) === "bad") path.classList.add("hit");
    if (link.from === chosen || link.to === chosen) path.classList.add("on");
    svg.append(path);
  }
  for (const [name, { x, y }] of [...left.places, ...right.places]) {
    const text = drawing("text", { x: x + 10, y: y + 17 });
    text.textContent = name;
    const box = drawing("rect", { x, y, width: WIDE, height: HIGH, rx: 5 });
    const node = drawing("g", { class: "node", "data-mark": marks.get(name) ?? "none" }, box, text);
    if (name === chosen || near.has(name)) node.classList.add("on");
    node.addEventListener("click", () => choose(name === chosen ? undefined : name));
    svg.append(node);
  }
  return svg;
}
