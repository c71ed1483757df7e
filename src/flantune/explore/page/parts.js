// What every view is made of: elements, questions to the API, numbers, charts, prompts. Text from data is only ever
// put in as text (textContent), never as HTML.

export const ROLES = ["instruction", "exemplar", "query", "rationale", "target"];
const ANSWERS = ["rationale", "target"];
const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const count = (n) => n.toLocaleString("en");
// 0.46 -> 46.0 %, 0.018 -> 1.80 %, 0.0001 -> 0.010 %
export const percent = (share) => `${(100 * share).toFixed(share >= 0.1 ? 1 : share >= 0.0005 ? 2 : 3)} %`;
export const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");

export function query(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(kept).toString();
}

export const link = (path, values = {}) => `#/${path}${query(values) && "?" + query(values)}`;
export const taskLink = (name, values = {}) => link("task", { name, ...values });

export async function ask(path, values = {}, signal = undefined) {
  let response;
  try {
    response = await fetch(`/api/${path}?${query(values)}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("No answer: was flantune tasks explore stopped?");
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: text || response.statusText };
  }
  if (!response.ok) throw new Error(answer.error ?? answer.detail ?? response.statusText);
  return answer;
}

// Fills `box` with what `make` gives; a later call for the same box overtakes an earlier one that is still waiting.
const running = new WeakMap();
export async function fill(box, make) {
  running.get(box)?.abort();
  const turn = new AbortController();
  running.set(box, turn);
  box.setAttribute("aria-busy", "true");
  try {
    const made = await make(turn.signal);
    if (running.get(box) === turn) box.replaceChildren(...[made].flat());
  } catch (error) {
    if (error.name === "AbortError" || running.get(box) !== turn) return;
    box.replaceChildren(el("p", { className: "error", role: "alert" }, error.message));
  } finally {
    if (running.get(box) === turn) box.removeAttribute("aria-busy");
  }
}

export function later(action, milliseconds = 200) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

export function field(name, control, grow = false) {
  return el("label", { className: grow ? "grow" : null }, name, control);
}

export function choice(name, options, value, onchange, all = "all") {
  const entries = all === null ? options : [["", all], ...options];
  const select = el("select", { name, onchange: () => onchange(select.value), className: value && all !== null ? "set" : null },
    entries.map(([key, label]) => el("option", { value: key }, label)));
  select.value = value ?? "";
  return select;
}

export const facetOptions = (values) => values.map(({ value, tasks }) => [value, `${value} (${count(tasks)})`]);

export function facts(pairs) {
  return el("dl", { className: "facts" },
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function table(columns, rows, caption = null) {
  // columns: [title, class, header node]; rows: arrays of cells, or {cells, here}
  return el("div", { className: "wide", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {},
      el("thead", {}, el("tr", {}, columns.map(([title, kind]) => el("th", { className: kind, scope: "col" }, title)))),
      el("tbody", {}, rows.map((row) => {
        const cells = row.cells ?? row;
        return el("tr", { className: row.here ? "here" : null }, cells.map((cell, i) => el("td", { className: columns[i][1] }, cell)));
      }))));
}

export function bar(share, largest) {
  const track = svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "bar-track", "aria-hidden": "true" },
    svg("g", { class: "bars" }, svg("rect", { x: 0, y: 0, height: 8, width: largest ? (100 * share) / largest : 0 })));
  return track;
}

// Bars of equal width, each a bin; the scale below is therefore that of the bins (equal or doubling).
export function histogram(title, unit, lengths) {
  const { bins, examples } = lengths;
  if (!examples) return el("figure", {}, el("figcaption", {}, `${title}: no example`));
  const [width, height, left, bottom, top] = [600, 170, 44, 20, 8];
  const most = Math.max(...bins.map((bin) => bin.count));
  const step = (width - left) / bins.length;
  const y = (n) => top + (height - top - bottom) * (1 - n / most);
  const span = (bin) => (bin.stop - bin.start > 1 ? `${count(bin.start)} to ${count(bin.stop - 1)}` : count(bin.start));
  const bars = bins.map((bin, i) => svg("rect", { x: left + i * step + 0.5, y: y(bin.count), width: Math.max(1, step - 1), height: height - bottom - y(bin.count) },
    withText("title", `${span(bin)} ${unit}: ${count(bin.count)}`)));
  const every = Math.max(1, Math.ceil(bins.length / 8));
  const scale = bins.map((bin, i) => [bin, i]).filter(([, i]) => i % every === 0)
    .map(([bin, i]) => withText("text", count(bin.start), { x: left + i * step, y: height - 5 }));
  const told = `${title}, ${unit}: median ${count(lengths.median)}, 95th percentile ${count(lengths.p95)}, ${count(lengths.smallest)} to ${count(lengths.largest)}; ${count(examples)} examples`;
  return el("figure", {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of ${told}` },
      svg("g", { class: "bars" }, ...bars),
      svg("line", { class: "axis", x1: left, x2: width, y1: height - bottom, y2: height - bottom }),
      withText("text", count(most), { x: left - 6, y: top + 8, "text-anchor": "end" }),
      withText("text", "0", { x: left - 6, y: height - bottom, "text-anchor": "end" }),
      ...scale),
    el("figcaption", {}, told));
}

// One packed row as a strip: each member where it lies, the one shown in full colour.
export function strip(title, members, side, place, limit) {
  const width = 600;
  const x = (tokens) => (width * tokens) / limit;
  const parts = members.map((member, i) => {
    const [start, stop] = side(member);
    return svg("rect", { class: i === place ? "segment here" : "segment", x: x(start), y: 1, width: x(stop - start), height: 18 },
      withText("title", `example ${member.index}, ${member.task}: ${count(stop - start)} tokens`));
  });
  return el("figure", {},
    svg("svg", { viewBox: `0 0 ${width} 20`, role: "img", "aria-label": title }, svg("rect", { class: "slot", x: 0, y: 0.5, width, height: 19 }), ...parts),
    el("figcaption", {}, title));
}

function withText(tag, text, attributes = {}) {
  const node = svg(tag, attributes);
  node.textContent = text;
  return node;
}

export function legend() {
  return el("p", { className: "legend" }, ROLES.map((role) => el("span", { className: `role-${role}` }, role)));
}

export function promptText(prompt) {
  const piece = (s) => el("span", { className: `role-${s.role}${s.cut ? " cut" : ""}`, title: s.exemplar === null ? s.role : `exemplar ${s.exemplar + 1}${s.cut ? ", cut: it did not fit" : ""}` }, s.text);
  const asked = prompt.segments.filter((s) => !ANSWERS.includes(s.role));
  const answered = prompt.segments.filter((s) => ANSWERS.includes(s.role));
  return [
    el("p", { className: "heading" }, "input"), el("pre", { className: "input" }, asked.map(piece)),
    el("p", { className: "heading" }, "target"), el("pre", { className: "target" }, answered.map(piece)),
  ];
}

export function promptFacts(prompt) {
  const exemplars = prompt.exemplars.map((e, i) => el("div", {}, `${i + 1}: row ${e.row}, ${e.where}, template ${e.template}`, e.cut ? el("span", { className: "chip warn" }, "cut: it did not fit") : null));
  return facts([
    ["mixture", prompt.part && prompt.part !== prompt.mixture ? `${prompt.mixture} (part ${prompt.part})` : prompt.mixture],
    ["task", el("a", { href: taskLink(prompt.task) }, prompt.task)],
    ["category", `${prompt.category} · ${prompt.language}`],
    ["row", `${prompt.row} · ${prompt.where}${prompt.epoch ? ` · epoch ${prompt.epoch}` : ""}`],
    ["template", prompt.template],
    ["format", prompt.format],
    ["exemplars", exemplars.length ? el("div", {}, exemplars) : null],
    ["options", prompt.options?.join(" | ")],
    ["also accepted", prompt.references.length > 1 ? prompt.references.slice(1).join(" | ") : null],
  ]);
}
