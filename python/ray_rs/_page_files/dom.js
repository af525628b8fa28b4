// Elements, and words for numbers. Text stays text: nothing here makes markup of it.

/** Makes an element. `about`: attributes; `class`, `on*` handlers and properties that begin with a dot are understood. */
export function make(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const GOOD = new Set(["ALIVE", "FINISHED", "SUCCEEDED", "CREATED"]);
const BAD = new Set(["DEAD", "FAILED"]);
const OVER = new Set(["REMOVED", "STOPPED"]);

/** A state, with a sign for those who see no colours. */
export function stateOf(state) {
  const kind = GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : OVER.has(state) ? "soft" : "wait";
  const sign = { good: "✓ ", bad: "✕ ", soft: "– ", wait: "… " }[kind];
  return make("span", { class: `state ${kind}` }, make("span", { "aria-hidden": "true" }, sign), state);
}

export function bytes(count) {
  if (count === null || count === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[unit]}`;
}

export function duration(us) {
  if (us === null || us === undefined) return "";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`;
  if (us < 60e6) return `${(us / 1e6).toFixed(us < 1e7 ? 2 : 1)} s`;
  if (us < 3600e6) return `${Math.floor(us / 60e6)} min ${Math.round((us % 60e6) / 1e6)} s`;
  return `${Math.floor(us / 3600e6)} h ${Math.round((us % 3600e6) / 60e6)} min`;
}

export function clock(ms, isFine = false) {
  if (!ms) return "";
  const date = new Date(ms);
  const pad = (number, digits = 2) => String(number).padStart(digits, "0");
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return isFine ? `${time}.${pad(date.getMilliseconds(), 3)}` : time;
}

export const count = (number) => (number ?? 0).toLocaleString("en-US");
export const short = (id) => (id ? `${id.slice(0, 12)}…` : "");

export function resources(amounts) {
  const rows = Object.entries(amounts ?? {});
  return rows.map(([name, amount]) => `${name}: ${name.includes("memory") ? bytes(amount) : +amount.toFixed(4)}`).join(", ");
}

/** Calls `act` once things have been quiet for a moment. */
export function quiet(act, ms = 250) {
  let timer = 0;
  return (...told) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...told), ms);
  };
}
