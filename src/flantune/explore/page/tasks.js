// The tasks of a collection: the table, one task, and text looked for in all examples.
import { ask, choice, count, el, facetOptions, facts, field, fill, histogram, later, legend, link, percent, promptFacts, promptText, table, taskLink } from "./parts.js";

const FACETS = ["mixture", "category", "language", "source", "format", "has", "use"];
const PAGE = 100;

export function tasksView(values, { overview, set }) {
  const wanted = { ...values };
  let shown = PAGE;
  const filters = el("div", { className: "controls", role: "search" });
  const list = el("div");
  const summary = el("p", { className: "soft", role: "status" });
  const words = el("input", { type: "search", name: "words", value: wanted.words ?? "", placeholder: "name, dataset, category, definition", autocomplete: "off" });

  const update = (changes = {}) => {
    Object.assign(wanted, changes);
    set(wanted);
    return fill(list, async (signal) => {
      const found = await ask("tasks", { ...wanted, limit: Math.min(shown, 200) }, signal);
      const tasks = found.tasks;
      while (tasks.length < Math.min(shown, found.total)) {
        tasks.push(...(await ask("tasks", { ...wanted, offset: tasks.length, limit: 200 }, signal)).tasks);
      }
      showFilters(found.facets);
      summary.textContent = `${count(found.total)} of ${count(overview.tasks)} tasks, ${count(found.examples)} examples`;
      return [taskTable(tasks, wanted, overview, (sort) => update({ sort })),
        tasks.length < found.total ? el("button", { type: "button", onclick: () => { shown += 5 * PAGE; update(); } }, `Show more (${count(found.total - tasks.length)} left)`) : null].filter(Boolean);
    });
  };

  function showFilters(facets) {
    const focused = document.activeElement?.name;
    const boxes = FACETS.filter((facet) => facets[facet].length > 1 || wanted[facet])
      .map((facet) => field(facet, choice(facet, facetOptions(facets[facet]), wanted[facet], (value) => { shown = PAGE; update({ [facet]: value }); })));
    const any = FACETS.some((facet) => wanted[facet]) || wanted.words;
    const clear = el("button", { type: "button", disabled: !any, onclick: () => { words.value = ""; update(Object.fromEntries([...FACETS, "words"].map((f) => [f, ""]))); } }, "Clear");
    filters.replaceChildren(field("search tasks", words, true), ...boxes, clear);
    if (focused) filters.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
  }

  const typed = later(() => { shown = PAGE; update({ words: words.value.trim() }); });
  words.addEventListener("input", typed);
  filters.append(field("search tasks", words, true));
  update();
  return [el("h1", {}, "Tasks"), filters, summary, list];
}

function taskTable(tasks, wanted, overview, sortBy) {
  if (!tasks.length) return el("p", {}, "No task passes these filters.");
  const sort = (key, title) => el("button", { type: "button", className: "plain", "aria-pressed": (wanted.sort ?? "name") === key, onclick: () => sortBy(key) }, title + ((wanted.sort ?? "name") === key ? " ↓" : ""));
  const columns = [[sort("name", "task"), "name"], ["mixture", ""], [sort("category", "category"), "optional"], ["language", "optional"], [sort("examples", "examples"), "number"], ["has", "optional"]];
  if (overview.recipe) columns.push(["use", "optional"], [sort("share", "share"), "number"]);
  return table(columns, tasks.map((task) => {
    const cells = [el("a", { href: taskLink(task.name) }, task.name), task.mixture, task.category, task.language, count(task.examples),
      el("span", {}, task.has.map((what) => el("span", { className: "chip" }, what)))];
    if (overview.recipe) cells.push(task.use ?? "", task.share === null ? "" : percent(task.share));
    return cells;
  }), "Tasks");
}

export function taskView(values, { overview, set }) {
  const name = values.name ?? "";
  const wanted = { unit: "characters", seed: "0", start: "0", ...values };
  const about = el("div"), lengths = el("div"), examples = el("div"), wordings = el("div"), controls = el("div", { className: "controls" });
  const count_ = 5;
  const asked = () => ({ name, format: wanted.format, shots: wanted.shots, seed: wanted.seed });

  const measure = () => fill(lengths, async (signal) => {
    const told = await ask("task/lengths", { ...asked(), unit: wanted.unit }, signal);
    const some = told.inputs.examples < told.of ? `Measured on ${count(told.inputs.examples)} of ${count(told.of)} examples, evenly spread.` : "";
    return [el("div", { className: "figures" }, histogram("Inputs", wanted.unit, told.inputs), histogram("Targets", wanted.unit, told.targets)),
      some ? el("p", { className: "soft" }, some) : el("span")];
  });

  const render = () => fill(examples, async (signal) => {
    const start = Number(wanted.start);
    const found = await ask("task/examples", { ...asked(), start, count: count_ }, signal);
    const go = (to) => { wanted.start = String(to); controls.querySelector("[name=start]").value = to; set(wanted); render(); };
    return [
      el("div", { className: "controls" },
        el("button", { type: "button", disabled: start <= 0, onclick: () => go(Math.max(0, start - count_)) }, "← Previous"),
        el("button", { type: "button", disabled: start + count_ >= found.examples, onclick: () => go(start + count_) }, "Next →"),
        el("span", { className: "soft" }, `rows ${count(start)} to ${count(Math.min(start + count_, found.examples) - 1)} of ${count(found.examples)}`)),
      legend(),
      ...found.skipped.map(([row, why]) => el("p", { className: "soft" }, `Row ${row}: ${why}`)),
      ...found.prompts.map((prompt) => el("article", { className: "prompt" }, el("h3", {}, `row ${prompt.row}`), ...promptText(prompt), el("details", {}, el("summary", {}, "What it is made from"), promptFacts(prompt)))),
    ];
  });

  fill(about, async (signal) => {
    const task = await ask("task", { name }, signal);
    const row = task.row;
    wanted.format ??= row.formats.find((format) => overview.formats.includes(format)) ?? "zs_opt";
    showControls();
    measure();
    render();
    wordings.replaceChildren(templates(task.templates));
    return [
      facts([
        ["mixture", el("a", { href: link("tasks", { mixture: row.mixture }) }, row.mixture)],
        ["category", el("a", { href: link("tasks", { category: row.category }) }, row.category)],
        ["dataset", row.dataset], ["language", row.language], ["examples", count(row.examples)],
        ["formats", row.formats.join(", ")], ["has", row.has.join(", ")], ["fields", task.fields.join(", ")],
        ["stored demonstrations", task.demonstrations ? count(task.demonstrations) : null],
        ["metric", task.metric], ["licence", task.licence ?? "not stated"], ["read by", `${row.source}, from ${task.path}`],
        ["in the recipe", row.use === null ? null : row.use + (row.share === null ? "" : `, ${percent(row.share)} of the stream`)],
      ]),
      task.definition ? el("p", { className: "definition" }, task.definition) : el("span"),
      row.use === "trained" ? el("p", {}, el("a", { href: link("stream", { at: 0, task: row.name }) }, "Show it in the stream")) : el("span"),
    ];
  });

  function showControls() {
    const change = (key, both) => (value) => { wanted[key] = value; set(wanted); if (both) measure(); if (key !== "unit") render(); };
    const number = (key, min, title, both, placeholder) => {
      const input = el("input", { type: "number", name: key, min, value: wanted[key] ?? "", placeholder });
      input.addEventListener("change", () => change(key, both)(input.value));
      return field(title, input);
    };
    controls.replaceChildren(
      field("format", choice("format", overview.formats.map((f) => [f, f]), wanted.format, change("format", true), null)),
      number("shots", 0, "shots", true, "format's"),
      number("seed", 0, "seed", true),
      field("lengths in", choice("unit", [["characters", "characters"], ...(overview.tokenizer ? [["tokens", "tokens"]] : [])], wanted.unit, change("unit", true), null)),
      number("start", 0, "from row", false));
  }

  return [el("p", {}, el("a", { href: "#/tasks" }, "← All tasks")), el("h1", {}, name), about, controls,
    el("h2", {}, "Lengths"), lengths, el("h2", {}, "Examples"), examples, el("h2", {}, "Wording"), wordings];
}

function templates(list) {
  const one = (t) => el("details", {}, el("summary", {}, `${t.name} (${t.kind}, ${t.language})`),
    el("p", { className: "heading" }, "inputs"), el("pre", {}, t.inputs), el("p", { className: "heading" }, "targets"), el("pre", {}, t.targets),
    el("p", { className: "heading" }, "few-shot"), facts(Object.entries(t.few_shot).map(([key, text]) => [key, el("code", {}, JSON.stringify(text))])));
  return el("div", {}, el("p", { className: "soft" }, `${list.length} templates`), list.map(one));
}

export function searchView(values, { set, left }) {
  const wanted = { ...values };
  const text = el("input", { type: "search", name: "text", value: wanted.text ?? "", placeholder: "text in any field, target or rationale", autocomplete: "off" });
  const filters = el("div", { className: "controls" });
  const hits = el("div");
  const more = el("div");
  const status = el("p", { className: "soft", role: "status" });
  let scanned = 0, found = 0;

  const go = (next = null) => fill(more, async (signal) => {
    status.textContent = "Looking …";
    const answer = await ask("search", { text: wanted.text, mixture: wanted.mixture, category: wanted.category, language: wanted.language, start: next }, AbortSignal.any([signal, left]));
    scanned += answer.scanned;
    found += answer.hits.length;
    hits.append(...answer.hits.map(hit));
    status.textContent = `${count(found)} examples found; looked at ${count(scanned)} of ${count(answer.total)}` + (answer.stopped ? `, stopped after ${answer.stopped}.` : ", which is all.");
    return answer.next ? [el("button", { type: "button", onclick: () => go(answer.next) }, "Go on looking")] : [];
  });
  const begin = () => {
    wanted.text = text.value;
    set(wanted);
    hits.replaceChildren();
    scanned = found = 0;
    if (wanted.text.trim()) go();
    else { more.replaceChildren(); status.textContent = "Letter case does not count."; }
  };
  const form = el("form", { role: "search", onsubmit: (event) => { event.preventDefault(); begin(); } }, field("text in examples", text, true), filters, el("button", {}, "Search"));
  ask("tasks", { limit: 1 }, left).then(({ facets }) => {
    filters.replaceChildren(...["mixture", "category", "language"].filter((f) => facets[f].length > 1).map((f) => field(f, choice(f, facetOptions(facets[f]), wanted[f], (value) => { wanted[f] = value; begin(); }))));
  }).catch(() => {});
  begin();
  return [el("h1", {}, "Search in examples"), form, status, hits, more];
}

function hit(h) {
  return el("article", { className: "hit" },
    el("p", {}, el("a", { href: taskLink(h.task, { start: h.row }) }, h.task), el("span", { className: "soft" }, ` row ${h.row} · ${h.where} · ${h.field}`)),
    el("p", { className: "snippet" }, h.before, el("mark", {}, h.match), h.after));
}
