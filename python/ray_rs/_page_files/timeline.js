// What ran where and when: a row for each worker. The service puts tasks together to what the screen can show, so the
// number of tasks does not matter here.
import { clock, count, duration, make, quiet } from "./dom.js";
import { part } from "./stream.js";

const ROW = 20;
const AXIS = 26;
const LABEL = 76;
const COLOURS = ["#3b7dd8", "#d9822b", "#3f9c5a", "#a65fc2", "#c2486b", "#2a9d9d", "#8a6d3b", "#6f7f93", "#7a9a2e", "#5b5bd6", "#b5533c", "#4f8f7a"];

function colour(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return COLOURS[sum % COLOURS.length];
}

export const timeline = {
  name: "timeline",
  title: "Timeline",
  sections: ["tasks"],
  begin(main, context) {
    Object.assign(this, { context, range: null, chart: null, cursor: 0, chosen: false, turn: 0 });
    this.readout = make("p", { id: "readout", "aria-live": "polite" }, "Loading …");
    this.canvas = make("canvas", { tabindex: 0, role: "img", "aria-label": "Timeline of tasks", "aria-describedby": "readout timeline-keys" });
    this.space = make("div");
    this.box = make("div", { class: "chart" }, this.canvas, this.space);
    this.legend = make("ul", { class: "legend", "aria-label": "Names" });
    const press = (label, act) => make("button", { type: "button", onclick: act }, label);
    this.follow = make("button", { type: "button", "aria-pressed": "true", onclick: () => this.reset() }, "Everything, live");
    const tools = make(
      "div",
      { class: "tools" },
      this.follow,
      press("Last 10 s", () => this.last(10)),
      press("Zoom in", () => this.zoom(0.5)),
      press("Zoom out", () => this.zoom(2)),
      press("Earlier", () => this.pan(-0.5)),
      press("Later", () => this.pan(0.5)),
    );
    const keys = make("p", { class: "soft", id: "timeline-keys" }, "Keys in the chart: + and − zoom, ← and → move, ↑ and ↓ choose a worker, Home shows everything. Drag to move, double-click to zoom.");
    main.append(tools, this.readout, this.box, this.legend, keys);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerdown", (event) => this.drag(event));
    this.canvas.addEventListener("dblclick", (event) => this.zoom(0.4, this.timeAt(event)));
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.resized = new ResizeObserver(quiet(() => this.load(), 100));
    this.resized.observe(this.box);
    this.load();
  },

  end() {
    this.resized.disconnect();
  },

  update(section) {
    // A part that is looked at stays as it is.
    if (section === "tasks" && this.range === null) this.load();
  },

  get width() {
    return Math.max(100, this.box.clientWidth - LABEL);
  },

  async load() {
    this.turn += 1;
    const { turn } = this;
    const words = { columns: Math.round(this.width) };
    if (this.range) Object.assign(words, { from_us: Math.round(this.range[0]), to_us: Math.round(this.range[1]) });
    try {
      const chart = await part("timeline", words);
      if (turn !== this.turn) return;
      this.take(chart);
    } catch (error) {
      this.context.fail(error);
    }
  },

  take(chart) {
    this.chart = chart;
    this.workers = chart.rows.map((row) => ({ ...row, running: [] }));
    const known = new Map(this.workers.map((row) => [row.worker_id, row]));
    for (const task of chart.running) {
      if (task.start_us >= chart.to_us) continue;
      if (!known.has(task.worker_id)) {
        known.set(task.worker_id, { worker_id: task.worker_id, pid: task.pid, cells: [], running: [] });
        this.workers.push(known.get(task.worker_id));
      }
      known.get(task.worker_id).running.push(task);
    }
    this.cursor = Math.min(this.cursor, Math.max(0, this.workers.length - 1));
    const used = new Set(this.workers.flatMap((row) => [...row.cells.map((cell) => chart.names[cell[2]]), ...row.running.map((task) => task.name)]));
    const shown = [...used].sort().slice(0, 30);
    this.legend.replaceChildren(...shown.map((name) => make("li", {}, swatch(name), name || "(no name)")));
    this.sum = `${count(chart.records)} tasks ended on ${count(this.workers.length)} workers within ${duration(chart.to_us - chart.from_us)}, from ${clock(chart.from_us / 1000, true)} to ${clock(chart.to_us / 1000, true)}; ${count(chart.running.length)} run.`;
    this.say();
    this.canvas.setAttribute("aria-label", `Timeline of tasks. ${this.sum}`);
    this.draw();
  },

  draw() {
    const { chart } = this;
    if (!chart) return;
    const height = AXIS + this.workers.length * ROW;
    const shown = Math.min(height, Math.max(200, Math.round(innerHeight * 0.6)));
    const ratio = devicePixelRatio || 1;
    const [width, plot] = [this.width + LABEL, this.width];
    Object.assign(this.canvas, { width: width * ratio, height: shown * ratio });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${shown}px` });
    this.space.style.height = `${Math.max(0, height - shown)}px`;
    const style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name);
    const to = this.canvas.getContext("2d");
    to.scale(ratio, ratio);
    to.clearRect(0, 0, width, shown);
    to.font = "12px system-ui, sans-serif";
    to.textBaseline = "middle";
    const top = this.box.scrollTop;
    const first = Math.floor(top / ROW);
    const span = chart.to_us - chart.from_us;
    const columns = Math.round(this.width);
    for (let index = first; index < this.workers.length; index += 1) {
      const y = AXIS + index * ROW - top;
      if (y > shown) break;
      const row = this.workers[index];
      to.fillStyle = ink(index === this.cursor ? "--accent" : "--soft");
      to.fillText(`${index === this.cursor ? "▸ " : ""}${row.pid}`, 6, y + ROW / 2);
      for (const [column, wide, name, busy, failed] of row.cells) {
        const tall = Math.max(3, ((ROW - 4) * busy) / 1000);
        to.fillStyle = colour(chart.names[name]);
        to.fillRect(LABEL + (column * plot) / columns, y + ROW - 2 - tall, Math.max(1, (wide * plot) / columns), tall);
        if (failed) {
          to.fillStyle = ink("--bad");
          to.fillRect(LABEL + (column * plot) / columns, y + ROW - 2, Math.max(2, (wide * plot) / columns), 2);
        }
      }
      for (const task of row.running) {
        const x = LABEL + (Math.max(0, task.start_us - chart.from_us) / span) * plot;
        to.strokeStyle = colour(task.name);
        to.strokeRect(x + 0.5, y + 2.5, Math.max(2, LABEL + plot - x - 1), ROW - 6);
      }
    }
    to.fillStyle = ink("--page");
    to.fillRect(0, 0, width, AXIS - 2);
    to.fillStyle = ink("--soft");
    to.strokeStyle = ink("--line");
    const steps = Math.max(2, Math.floor(plot / 140));
    for (let step = 0; step <= steps; step += 1) {
      const x = LABEL + (plot * step) / steps;
      to.textAlign = step === steps ? "right" : "left";
      to.fillText(step === 0 ? clock(chart.from_us / 1000, true) : `+${duration((span * step) / steps)}`, x, AXIS / 2);
    }
    to.textAlign = "left";
    to.beginPath();
    to.moveTo(0, AXIS - 2.5);
    to.lineTo(width, AXIS - 2.5);
    to.stroke();
  },

  timeAt(event) {
    const { from_us: from, to_us: until } = this.chart;
    return from + ((event.offsetX - LABEL) / this.width) * (until - from);
  },

  hover(event) {
    if (!this.chart || event.buttons) return;
    const index = Math.floor((event.offsetY - AXIS + this.box.scrollTop) / ROW);
    const row = this.workers[index];
    if (!row || event.offsetX < LABEL) return;
    const column = Math.floor(((event.offsetX - LABEL) / this.width) * Math.round(this.width));
    const cell = row.cells.find(([at, wide]) => at <= column && column < at + wide);
    const running = row.running.filter((task) => task.start_us <= this.timeAt(event)).map((task) => task.name);
    const ran = cell ? `${this.chart.names[cell[2]]}, busy ${cell[3] / 10} %${cell[4] ? ", with failures" : ""}` : "nothing ended";
    const words = `Worker ${row.pid} at ${clock(this.timeAt(event) / 1000, true)}: ${ran}${running.length ? `; runs ${running.join(", ")}` : ""}.`;
    // People who look at the chart see it; it is not read out for every move.
    this.canvas.title = words;
  },

  drag(event) {
    if (!this.chart || event.button !== 0) return;
    const [x, range] = [event.clientX, [this.chart.from_us, this.chart.to_us]];
    const move = (moved) => {
      const by = ((x - moved.clientX) / this.width) * (range[1] - range[0]);
      if (Math.abs(moved.clientX - x) > 4) this.go([range[0] + by, range[1] + by]);
    };
    const end = () => {
      removeEventListener("pointermove", slow);
      removeEventListener("pointerup", end);
    };
    const slow = quiet(move, 30);
    addEventListener("pointermove", slow);
    addEventListener("pointerup", end);
  },

  key(event) {
    const acts = {
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      ArrowLeft: () => this.pan(-0.25),
      ArrowRight: () => this.pan(0.25),
      ArrowUp: () => this.choose(-1),
      ArrowDown: () => this.choose(1),
      Home: () => this.reset(),
    };
    if (!acts[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    acts[event.key]();
  },

  choose(by) {
    if (!this.workers?.length) return;
    this.cursor = Math.min(Math.max(0, this.cursor + by), this.workers.length - 1);
    this.chosen = true;
    this.say();
    const y = this.cursor * ROW;
    if (y < this.box.scrollTop) this.box.scrollTop = y;
    else if (y + AXIS + ROW > this.box.scrollTop + this.canvas.clientHeight) this.box.scrollTop = y + AXIS + ROW - this.canvas.clientHeight;
    this.draw();
  },

  // What is looked at in words: also when it changes, and read out only then.
  say() {
    const words = this.chosen && this.workers.length ? this.described() : this.sum;
    if (this.readout.textContent !== words) this.readout.textContent = words;
  },

  described() {
    const row = this.workers[this.cursor];
    const columns = Math.round(this.width);
    const busy = row.cells.reduce((sum, cell) => sum + cell[1] * cell[3], 0) / 10 / columns;
    const times = new Map();
    for (const cell of row.cells) times.set(cell[2], (times.get(cell[2]) ?? 0) + cell[1] * cell[3]);
    const [most] = [...times].sort((left, right) => right[1] - left[1]);
    return `Worker ${row.pid}: busy ${busy.toFixed(0)} % of the time${most ? `, mostly with ${this.chart.names[most[0]]}` : ""}${row.running.length ? `; runs ${row.running.map((task) => task.name).join(", ")}` : ""}.`;
  },

  go(range) {
    const least = 10;
    const [from, until] = range;
    this.range = until - from < least ? [from, from + least] : [Math.max(0, from), until];
    this.follow.setAttribute("aria-pressed", "false");
    this.load();
  },

  zoom(by, around) {
    if (!this.chart) return;
    const { from_us: from, to_us: until } = this.chart;
    const centre = around ?? (from + until) / 2;
    this.go([centre - (centre - from) * by, centre + (until - centre) * by]);
  },

  pan(by) {
    if (!this.chart) return;
    const { from_us: from, to_us: until } = this.chart;
    this.go([from + (until - from) * by, until + (until - from) * by]);
  },

  last(seconds) {
    if (this.chart) this.go([this.chart.last_us - seconds * 1e6, this.chart.last_us + 1]);
  },

  reset() {
    this.range = null;
    this.chosen = false;
    this.follow.setAttribute("aria-pressed", "true");
    this.load();
  },
};

function swatch(name) {
  const canvas = make("canvas", { width: 14, height: 14, "aria-hidden": "true" });
  const to = canvas.getContext("2d");
  to.fillStyle = colour(name);
  to.fillRect(0, 0, 14, 14);
  return canvas;
}
