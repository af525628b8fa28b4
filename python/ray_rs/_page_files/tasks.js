// Tasks: sums by name, and every single one, as many as there are.
import { clock, count, duration, make, quiet, short, stateOf } from "./dom.js";
import { fieldsOf, flame, log, show, stack, why } from "./dialog.js";
import { part } from "./stream.js";
import { Here, Table, There } from "./table.js";

const STATES = [
  ["", "all"],
  ["UNFINISHED", "not ended"],
  ["RUNNING", "running"],
  ["PENDING_NODE_ASSIGNMENT", "waiting for a node"],
  ["PENDING_ARGS_AVAIL", "waiting for arguments"],
  ["FINISHED", "finished"],
  ["FAILED", "failed"],
];

const sums = (row) => Object.entries(row.states).map(([state, number]) => `${number} ${state.toLowerCase().replaceAll("_", " ")}`).join(", ");
const numeric = (title, value, words = count, isMinor = false) => ({
  title,
  value,
  cell: (row) => words(value(row)),
  isNumber: true,
  isMinor,
});

export const tasks = {
  name: "tasks",
  title: "Tasks",
  sections: ["tasks", "logs"],
  begin(main, context) {
    this.context = context;
    this.about = make("p", { class: "soft" });
    this.name = null;
    const only = (row) => () => this.filterBy(row.name);
    const names = [
      { title: "Name", value: (row) => row.name, cell: (row) => make("button", { type: "button", class: "plain", onclick: only(row) }, row.name || "(no name)") },
      numeric("Not ended", (row) => Object.values(row.states).reduce((sum, number) => sum + number, 0)),
      numeric("Finished", (row) => row.finished),
      numeric("Failed", (row) => row.failed),
      numeric("Mean time", (row) => (row.ran ? row.run_us / row.ran : 0), duration),
      numeric("Longest", (row) => row.longest_us, duration, true),
      numeric("All time", (row) => row.run_us, duration, true),
      numeric("Mean wait", (row) => (row.ran ? row.wait_us / row.ran : 0), duration, true),
      { title: "States of those that have not ended", cell: sums, isMinor: true },
    ];
    this.byName = new Table("Tasks by name", names, new Here(), { key: (row) => `${row.name} ${row.type}`, sort: 6, isDown: true });
    this.each = new Table("Tasks, the latest first", this.columns(), new There((offset, limit) => this.load(offset, limit), () => this.each.update()), {
      key: (row) => `${row.task_id} ${row.attempt_number}`,
    });
    main.append(this.about, make("h3", {}, "By name"), this.byName.element, make("h3", {}, "One by one"), this.tools(), this.each.element);
    this.update("tasks");
    this.again();
  },

  columns() {
    const open = (row) => () => this.open(row);
    return [
      { title: "Task", cell: (row) => make("button", { type: "button", class: "plain", onclick: open(row) }, short(row.task_id)) },
      { title: "Name", cell: (row) => row.name },
      { title: "State", cell: (row) => stateOf(row.state) },
      { title: "Ran for", cell: (row) => (row.start_time_ms && row.end_time_ms ? duration((row.end_time_ms - row.start_time_ms) * 1000) : ""), isNumber: true },
      { title: "Ended", cell: (row) => clock(row.end_time_ms, true), isNumber: true, isMinor: true },
      { title: "Process", cell: (row) => String(row.worker_pid ?? ""), isNumber: true, isMinor: true },
      { title: "Error", cell: (row) => (row.error_message ?? "").split("\n").filter(Boolean).at(-1) ?? "", isMinor: true },
    ];
  },

  tools() {
    const begin = () => this.again();
    this.search = make("input", { type: "search", placeholder: "part of a name, or an id", oninput: quiet(begin) });
    this.state = make("select", { onchange: begin }, STATES.map(([value, words]) => make("option", { value }, words)));
    this.only = make("button", { type: "button", hidden: true, onclick: () => this.filterBy(null) });
    return make("div", { class: "tools" }, make("label", {}, "Search ", this.search), make("label", {}, "State ", this.state), this.only);
  },

  filterBy(name) {
    this.name = name;
    this.only.hidden = name === null;
    this.only.textContent = `Only ${name} ✕`;
    this.only.setAttribute("aria-label", `Only ${name}: show all again`);
    this.again();
    if (name !== null) this.only.focus();
    else this.search.focus();
  },

  again() {
    this.each.rows.begin().catch((error) => this.context.fail(error));
  },

  load(offset, limit) {
    const words = { offset, limit, search: this.search.value.trim(), state: this.state.value };
    return part("tasks", this.name === null ? words : { ...words, name: this.name });
  },

  update(section) {
    const rows = this.context.rows("tasks");
    if (section !== "tasks" || !rows) return;
    const { ended, dropped } = rows.get("");
    const older = dropped ? ` ${count(dropped)} older ones are not kept.` : "";
    this.about.textContent = `${count(ended)} tasks that have ended are on record.${older}`;
    this.byName.rows.set([...rows].filter(([key]) => key !== "").map(([, row]) => row));
    this.byName.update();
    this.each.rows.again();
  },

  open(row) {
    const isOver = row.state === "FINISHED" || row.state === "FAILED";
    const buttons = isOver ? [] : [why(row.task_id)];
    if (!isOver && row.worker_pid) buttons.push(stack(row.worker_pid, row.node_id), flame(row.worker_pid, row.node_id));
    if (row.worker_pid) buttons.push(log(row.worker_pid, row.worker_id, row.node_id, () => this.context.rows("logs")));
    show(`Task ${row.name}`, fieldsOf(row), buttons);
  },
};
