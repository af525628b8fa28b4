// A flame graph: each function as wide as its share of the samples, below who called it. A press makes one as wide as all.
import { make } from "./dom.js";

const ROW = 20;
// Narrower ones are left out: a share of what is shown.
const NARROWEST = 0.002;

/** `rows`: `[below, left, samples, name]` each, callers before what they call. */
export function flame(rows) {
  const frames = rows.map(([depth, left, samples, name]) => ({ depth, left, samples, name, parent: null, calls: [] }));
  const open = [];
  for (const frame of frames) {
    frame.parent = open[frame.depth - 1] ?? null;
    frame.parent?.calls.push(frame);
    open[frame.depth] = frame;
  }
  const [root] = frames;
  const said = make("p", { class: "soft", "aria-live": "polite" });
  const box = make("div", { class: "flame", role: "group", "aria-label": "Flame graph", onkeydown: keys });
  let shown = root;
  let buttons = new Map();

  const share = (frame) => `${((100 * frame.samples) / Math.max(root.samples, 1)).toFixed(1)} %`;
  const words = (frame) => `${frame.name}: ${share(frame)}, ${frame.samples} of ${root.samples} samples`;

  function draw(focused) {
    const [from, width] = [shown.left, Math.max(shown.samples, 1)];
    buttons = new Map();
    let deepest = 0;
    for (const frame of frames) {
      const isAround = frame.left <= from && from + width <= frame.left + frame.samples && frame.depth <= shown.depth;
      const isWithin = frame.left >= from && frame.left + frame.samples <= from + width && frame.depth > shown.depth;
      if (!isAround && !(isWithin && frame.samples / width >= NARROWEST)) continue;
      const button = make("button", { type: "button", title: words(frame), tabindex: -1, onclick: () => zoom(frame), onfocus: () => tell(frame) }, frame.name);
      const left = isAround ? 0 : (frame.left - from) / width;
      const part = isAround ? 1 : frame.samples / width;
      button.style.left = `${100 * left}%`;
      button.style.width = `${100 * part}%`;
      button.style.top = `${ROW * frame.depth}px`;
      button.style.backgroundColor = colour(frame.name);
      buttons.set(frame, button);
      deepest = Math.max(deepest, frame.depth);
    }
    box.replaceChildren(...buttons.values());
    box.style.height = `${ROW * (deepest + 1)}px`;
    (buttons.get(focused) ?? buttons.get(shown)).tabIndex = 0;
  }

  function tell(frame) {
    said.textContent = words(frame);
  }

  function zoom(frame) {
    shown = frame === shown ? (frame.parent ?? root) : frame;
    draw(frame);
    buttons.get(frame)?.focus();
    tell(frame);
  }

  function keys(event) {
    const frame = [...buttons].find(([, button]) => button === document.activeElement)?.[0];
    if (!frame) return;
    const beside = [...buttons.keys()].filter((other) => other.depth === frame.depth);
    const at = beside.indexOf(frame);
    const called = frame.calls.filter((call) => buttons.has(call)).sort((one, other) => other.samples - one.samples);
    const to = { ArrowUp: frame.parent, ArrowDown: called[0], ArrowLeft: beside[at - 1], ArrowRight: beside[at + 1], Home: root }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to === null || !buttons.has(to)) return;
    buttons.get(frame).tabIndex = -1;
    buttons.get(to).tabIndex = 0;
    buttons.get(to).focus();
  }

  draw(root);
  tell(root);
  return [said, make("div", { class: "scroll" }, box)];
}

/** The same for the same function, light enough for black letters. */
function colour(name) {
  let number = 0;
  for (const letter of name) number = (number * 31 + letter.codePointAt(0)) % 9973;
  return `hsl(${10 + (number % 45)}, 85%, ${68 + (number % 4) * 4}%)`;
}
