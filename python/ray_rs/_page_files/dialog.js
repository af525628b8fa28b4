// Details of one thing, and what can be asked about it.
import { clock, make, stateOf } from "./dom.js";
import { flame as graph } from "./flame.js";
import { ask, part } from "./stream.js";

const dialog = document.getElementById("dialog");
const title = document.getElementById("dialog-title");
const body = document.getElementById("dialog-body");
const FLAME_S = 3;
document.getElementById("dialog-close").addEventListener("click", () => dialog.close());

/** Shows `fields`, [name, value] each, below buttons, `{label, act}` each; `act` gives the text, or the elements, shown then. */
export function show(heading, fields, buttons = []) {
  title.textContent = heading;
  const output = make("div", { "aria-live": "polite" });
  const list = make("dl", {}, fields.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, shown(value))]));
  const tools = make("div", { class: "tools" }, buttons.map(({ label, act }) => button(label, act, output)));
  body.replaceChildren(tools, output, list);
  if (!dialog.open) dialog.showModal();
}

function button(label, act, output) {
  const press = async (event) => {
    const pressed = event.currentTarget;
    pressed.disabled = true;
    output.replaceChildren(make("p", {}, "Asking …"));
    try {
      const said = await act();
      const elements = typeof said === "string" ? [make("pre", { tabindex: 0 }, said)] : said;
      output.replaceChildren(...(said === undefined ? [] : [make("h3", {}, label), ...elements]));
    } catch (error) {
      output.replaceChildren(make("p", { class: "trouble" }, error.message));
    }
    pressed.disabled = false;
    pressed.focus();
  };
  return make("button", { type: "button", onclick: press }, label);
}

function shown(value) {
  if (value instanceof Node) return value;
  if (value === null || value === undefined || value === "") return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** All columns of a row; times and states as people read them. */
export function fieldsOf(row) {
  return Object.entries(row).map(([name, value]) => {
    if (name === "state" || name === "status") return [name, stateOf(value)];
    if (typeof value === "number" && (name.endsWith("_time_ms") || name.endsWith("_time"))) return [name, clock(value, true)];
    return [name, value];
  });
}

export const why = (id) => ({ label: "Why?", act: async () => (await part("why", { id })).why });

export const stack = (pid, node) => ({
  label: "Stack",
  act: () => ask("/api/page/stack", { method: "POST", body: JSON.stringify({ pid, node_id: node }) }),
});

/** Where the worker's threads spend the next seconds. */
export const flame = (pid, node) => ({
  label: "Flame graph",
  act: async () => graph((await ask("/api/page/flame", { method: "POST", body: JSON.stringify({ pid, node_id: node, seconds: FLAME_S }) })).rows),
});

/** Goes to a worker's log; shows the last of it when it is on another node. */
export const log = (pid, worker, node, logs) => ({
  label: "Log",
  act: async () => {
    const wanted = (name) => name.startsWith(`worker-${worker}`) && name.endsWith(`-${pid}.out`);
    const name = [...(logs() ?? new Map()).keys()].find(wanted);
    if (!name) return (await part("worker_log", { pid, node_id: node })).text;
    dialog.close();
    location.hash = `#/logs/${encodeURIComponent(name)}`;
  },
});
