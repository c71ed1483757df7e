// A recipe's stream, example by example, and the mixture it is drawn from.
import { ask, bar, choice, count, el, facetOptions, field, fill, histogram, legend, link, percent, promptFacts, promptText, strip, table, taskLink, visible } from "./parts.js";

const FILTERS = ["mixture", "category", "format", "task"];

export function streamView(values, { overview, set, left }) {
  if (!overview.recipe) return el("p", { className: "error" }, "There is no stream: give --recipe.");
  const wanted = { ...values, at: values.at ?? "0" };
  const filters = el("div", { className: "controls" });
  const status = el("p", { className: "soft", role: "status" });
  const text = el("div"), tokens = el("div"), pack = el("div"), block = el("div"), next = el("div");
  const at = el("input", { type: "number", name: "at", min: 0, value: wanted.at });
  const title = el("h1", {}, "");
  let packs = false; // asked for once, shown for every example from then on
  const filter = () => Object.fromEntries(FILTERS.map((f) => [f, wanted[f]]));

  function show(index) {
    wanted.at = String(index);
    at.value = index;
    set(wanted);
    title.textContent = `Example ${count(index)}`;
    status.textContent = "";
    if (packs) showPack();
    else pack.replaceChildren(el("button", { type: "button", onclick: () => { packs = true; showPack(); } }, "Show its packed row"), el("span", { className: "soft" }, " encodes the block it is in"));
    fill(text, async (signal) => {
      const { prompt, tokens: ids } = await ask("stream/example", { at: index }, signal);
      tokens.replaceChildren(...tokenParts(ids, prompt.exemplars.length));
      return [promptFacts(prompt), legend(), ...promptText(prompt)];
    });
    fill(next, async (signal) => {
      const { draws } = await ask("stream", { ...filter(), start: index, count: 15 }, signal);
      return draws.length ? [drawTable(draws, index, show)] : [];
    });
  }

  // The first example from a place on that passes the filters.
  async function seek(from, backwards = false) {
    if (from < 0) return;
    try {
      const { draws, scanned } = await ask("stream", { ...filter(), start: from, count: 1, backwards }, left);
      if (draws.length) show(draws[0].index);
      else status.textContent = `None among the ${backwards ? "previous" : "next"} ${count(scanned)} examples passes the filter.`;
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = error.message;
    }
  }
  const step = (backwards) => seek(Number(wanted.at) + (backwards ? -1 : 1), backwards);

  const showPack = () => fill(pack, async (signal) => {
    if (!pack.querySelector("table")) pack.replaceChildren(el("p", { className: "soft" }, "Encoding the block …"));
    const row = await ask("stream/pack", { at: wanted.at }, signal);
    if (row === null) return [el("p", {}, "Not packed: the example is left out of training.")];
    showBlock(row.block);
    return packParts(row, show);
  });

  const showBlock = (number) => fill(block, async (signal) => {
    const b = await ask("stream/block", { number }, signal);
    return [el("details", { open: true }, el("summary", {}, `Block ${number}: ${count(b.examples)} examples in ${count(b.rows)} rows, ${fillText(b.fill)}${b.dropped ? `, ${count(b.dropped)} left out` : ""}`),
      el("div", { className: "figures" }, histogram("Inputs", "tokens", b.lengths.inputs), histogram("Targets", "tokens", b.lengths.targets)))];
  });

  const changed = (key) => (value) => { wanted[key] = value; set(wanted); showFilters(); seek(Number(wanted.at)); };
  let known = null;
  function showFilters() {
    const task = el("input", { name: "task", value: wanted.task ?? "", placeholder: "part of a name", className: wanted.task ? "set" : null });
    task.addEventListener("change", () => changed("task")(task.value.trim()));
    const focused = document.activeElement?.name;
    filters.replaceChildren(field("example", at),
      el("span", { className: "buttons" }, el("button", { type: "button", onclick: () => step(true) }, "← Previous"), el("button", { type: "button", onclick: () => step(false) }, "Next →")),
      ...(known ? [field("mixture", choice("mixture", known.mixtures, wanted.mixture, changed("mixture"))), field("category", choice("category", known.categories, wanted.category, changed("category"))), field("format", choice("format", known.formats, wanted.format, changed("format")))] : []),
      field("task", task));
    if (focused) filters.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
  }

  at.addEventListener("change", () => { if (at.value !== "" && Number(at.value) >= 0) show(Math.floor(Number(at.value))); });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j" || event.key === "ArrowRight") step(false);
    if (event.key === "k" || event.key === "ArrowLeft") step(true);
  }, { signal: left });
  Promise.all([ask("mixture", {}, left), ask("tasks", { limit: 1, use: "trained" }, left)]).then(([mix, tasks]) => {
    const shares = (list) => list.map(({ name, share }) => [name, `${name} (${percent(share)})`]);
    known = { mixtures: shares(mix.mixtures), formats: shares(mix.formats), categories: facetOptions(tasks.facets.category) };
    showFilters();
  }).catch(() => {});
  showFilters();
  if (FILTERS.some((f) => wanted[f])) seek(Number(wanted.at) || 0);
  else show(Number(wanted.at) || 0);
  return [title, filters, status, text, el("h2", {}, "Tokens"), tokens, el("h2", {}, "Pack"), pack, block, el("h2", {}, "From here on"), next,
    el("p", { className: "soft" }, "Keys: → or j next, ← or k previous.")];
}

function tokenParts(ids, exemplars) {
  if (ids.dropped) return [el("p", {}, `None: left out of training; ${ids.dropped}.`)];
  const side = (name, s) => el("details", { open: name === "targets" || s.ids.length <= 400 },
    el("summary", {}, `${name}: ${count(s.ids.length)} of at most ${count(s.limit)}${s.cut ? `; ${count(s.cut)} cut off the end` : ""}`),
    el("ol", { className: "tokens" }, s.ids.map((id, i) => el("li", { title: `token ${i}` }, visible(s.pieces[i]) || "∅", el("small", {}, String(id))))));
  return [side("inputs", ids.inputs), side("targets", ids.targets), ids.exemplars_cut ? el("p", {}, `${ids.exemplars_cut} of ${exemplars} exemplars cut: they did not fit.`) : el("span")];
}

const fillText = (fill) => Object.entries(fill).map(([side, f]) => `${side} ${percent(f.used / f.limit)} full`).join(", ");

function packParts(pack, show) {
  const strips = pack.one_sided
    ? [strip(`row: ${fillText(pack.fill)}`, pack.members, (m) => [m.inputs[0], m.targets[1]], pack.place, pack.fill.row.limit)]
    : ["inputs", "targets"].map((side) => strip(`${side}: ${count(pack.fill[side].used)} of ${count(pack.fill[side].limit)}, ${percent(pack.fill[side].used / pack.fill[side].limit)} full`, pack.members, (m) => m[side], pack.place, pack.fill[side].limit));
  const span = ([start, stop]) => (stop > start ? `${start}–${stop - 1}` : "none");
  return [el("p", {}, `Row ${pack.row} of ${pack.rows} of block ${pack.block} (examples ${count(pack.first)} to ${count(pack.stop - 1)})`), ...strips,
    table([["example", "number"], ["inputs", "number"], ["targets", "number"], ["task", "name"]], pack.members.map((m, i) => ({
      here: i === pack.place,
      cells: [el("a", { href: link("stream", { at: m.index }), onclick: (event) => { event.preventDefault(); show(m.index); window.scrollTo(0, 0); } }, String(m.index)), span(m.inputs), span(m.targets), el("a", { href: taskLink(m.task) }, m.task)],
    })), "Examples of the packed row")];
}

function drawTable(draws, index, show) {
  return table([["example", "number"], ["mixture", ""], ["task", "name"], ["row", "number"], ["format", "optional"]], draws.map((d) => ({
    here: d.index === index,
    cells: [el("a", { href: link("stream", { at: d.index }), onclick: (event) => { event.preventDefault(); show(d.index); window.scrollTo(0, 0); } }, String(d.index)), d.mixture, el("a", { href: taskLink(d.task) }, d.task), count(d.row), d.format],
  })), "Examples of the stream");
}

export function mixtureView(values, { overview }) {
  const box = el("div");
  fill(box, async (signal) => {
    const mix = await ask("mixture", {}, signal);
    const shares = (list, name, cell) => {
      const largest = Math.max(...list.map((s) => s.share));
      const sized = list.some((s) => s.examples !== null);
      return table([[name, "name"], ["share", "number"], ["", "bar"], ...(sized ? [["examples", "number"]] : [])],
        list.map((s) => [cell(s.name), percent(s.share), bar(s.share, largest), ...(sized ? [count(s.examples)] : [])]), name);
    };
    return [
      el("p", { className: "soft" }, `Recipe ${mix.recipe}, seed ${mix.seed}. Shares of the stream's examples, as asked.`),
      el("h2", {}, "Mixtures"), shares(mix.mixtures, "mixture", (name) => el("a", { href: link("stream", { at: 0, mixture: name }) }, name)),
      el("h2", {}, "Formats"), shares(mix.formats, "format", (name) => el("a", { href: link("stream", { at: 0, format: name }) }, name)),
      el("h2", {}, `${count(mix.tasks.length)} tasks`), shares(mix.tasks, "task", (name) => el("a", { href: taskLink(name) }, name)),
      ...(mix.left_out.length ? [el("h2", {}, `${count(mix.left_out.length)} left out`), table([["task", "name"], ["why", ""]], mix.left_out.map(([name, why]) => [el("a", { href: taskLink(name) }, name), why]), "Left out")] : []),
    ];
  });
  return [el("h1", {}, `Mixture of ${overview.recipe}`), box];
}
