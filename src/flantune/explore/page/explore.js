// The router: #/tasks, #/task?name=, #/search?text=, #/stream?at=, #/mixture.
import { ask, count, el, link } from "./parts.js";
import { mixtureView, streamView } from "./stream.js";
import { searchView, taskView, tasksView } from "./tasks.js";

const VIEWS = { tasks: tasksView, task: taskView, search: searchView, stream: streamView, mixture: mixtureView };
const main = document.getElementById("main");
let overview;
let leave = () => {};

function place() {
  const [path, values] = location.hash.replace(/^#\/?/, "").split("?");
  return [path || "tasks", Object.fromEntries(new URLSearchParams(values ?? ""))];
}

function show() {
  const [path, values] = place();
  if (path === "main") return; // the link that skips the header
  leave();
  const view = VIEWS[path] ?? tasksView;
  const own = new AbortController();
  leave = () => own.abort();
  const set = (changed) => history.replaceState(null, "", link(path, changed));
  document.title = `${path} · flantune explore`;
  for (const a of document.querySelectorAll("nav a")) {
    const current = a.dataset.view === path || (path === "task" && a.dataset.view === "tasks");
    current ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  main.replaceChildren(...[view(values, { overview, set, left: own.signal })].flat());
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

async function begin() {
  try {
    overview = await ask("overview");
  } catch (error) {
    main.replaceChildren(el("p", { className: "error", role: "alert" }, error.message));
    return;
  }
  const pages = ["tasks", "search", ...(overview.recipe ? ["stream", "mixture"] : [])];
  document.getElementById("nav").append(...pages.map((page) => el("a", { href: link(page), "data-view": page }, page[0].toUpperCase() + page.slice(1))));
  const from = overview.recipe ? `recipe ${overview.recipe}` : overview.read_from.join(", ");
  document.getElementById("read-from").textContent = `${count(overview.tasks)} tasks, ${count(overview.examples)} examples` +
    (overview.rejected ? `, ${count(overview.rejected)} rows set aside` : "") + ` · ${from}`;
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      const box = main.querySelector("input[type=search]");
      if (box) { event.preventDefault(); box.focus(); box.select(); }
    }
  });
  show();
}

begin();
