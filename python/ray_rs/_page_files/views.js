// The views that are tables of what a section has, and the overview. A view is `{title, sections, begin(main, context),
// update(section)}`; `context` has `rows(section)` and `argument`, what follows the view's name in the address.
import { bytes, clock, count, make, resources, short, stateOf } from "./dom.js";
import { fieldsOf, flame, log, show, stack, why } from "./dialog.js";
import { ask } from "./stream.js";
import { Here, Table } from "./table.js";

const text = (title, name, about = {}) => ({
  title,
  cell: (row) => String(row[name] ?? ""),
  value: (row) => row[name],
  ...about,
});
const number = (title, name, words = count, about = {}) => ({
  title,
  cell: (row) => (row[name] === null || row[name] === undefined ? "" : words(row[name])),
  value: (row) => row[name] ?? -1,
  isNumber: true,
  ...about,
});
const state = (name = "state") => ({ title: "State", cell: (row) => stateOf(row[name]), value: (row) => row[name] });
const minor = { isMinor: true };
const opens = (title, words, open) => ({
  title,
  cell: (row) => make("button", { type: "button", class: "plain", onclick: () => open(row) }, words(row)),
  value: words,
});

/** A view of one table. `extra`: further sections that its details need. */
function tableView(name, title, section, columns, options, extra = []) {
  let table;
  let context;
  const open = (row) => options.open(row, context);
  return {
    name,
    title,
    sections: [section, ...extra],
    begin(main, given) {
      context = given;
      const built = columns.map((column) => (column.isOpener ? { ...opens(column.title, column.words, open), ...column.about } : column));
      table = new Table(title, built, new Here(), { search: true, ...options });
      main.append(table.element);
      this.update(section);
    },
    update(changed) {
      const rows = context.rows(section);
      if (changed !== section || rows === null) return;
      table.rows.set([...rows].filter(([key]) => key !== "").map(([key, row]) => ({ ...row, "": key })));
      table.update();
    },
  };
}

const opener = (title, words, about = {}) => ({ isOpener: true, title, words, about });

const actorButtons = (row, context) => [
  ...(row.state === "DEAD" ? [] : [why(row.actor_id)]),
  ...(row.state === "ALIVE" && row.pid ? [stack(row.pid, row.node_id), flame(row.pid, row.node_id), log(row.pid, "", row.node_id, () => context.rows("logs"))] : []),
];

export const actors = tableView(
  "actors",
  "Actors",
  "actors",
  [
    opener("Actor", (row) => short(row.actor_id)),
    text("Class", "class_name"),
    text("Name", "name"),
    state(),
    number("Process", "pid", String),
    number("Restarts", "num_restarts", count, minor),
    { title: "Resources", cell: (row) => resources(row.required_resources), ...minor },
    text("Job", "job_id", minor),
    text("Why it died", "death_cause", minor),
  ],
  {
    key: (row) => row.actor_id,
    sort: 1,
    open: (row, context) => show(`Actor ${row.class_name}`, fieldsOf(withoutKey(row)), actorButtons(row, context)),
  },
  ["logs"],
);

export const groups = tableView(
  "groups",
  "Placement groups",
  "groups",
  [
    opener("Group", (row) => short(row.placement_group_id)),
    text("Name", "name"),
    state(),
    number("Bundles", "count", count),
    { title: "Resources", cell: (row) => (row.bundles ?? []).map((bundle) => `{${resources(bundle.resources)}}`).join(" ") },
    { title: "Waits for", cell: (row) => row.stats?.scheduling_state ?? "", ...minor },
  ].map((column) => (column.title === "Bundles" ? { ...column, cell: (row) => count(row.bundles?.length), value: (row) => row.bundles?.length } : column)),
  {
    key: (row) => row.placement_group_id,
    open: (row) => show(`Placement group ${row.name || short(row.placement_group_id)}`, fieldsOf(withoutKey(row))),
  },
);

export const workers = tableView(
  "workers",
  "Workers",
  "workers",
  [
    opener("Process", (row) => String(row.pid), { isNumber: true, value: (row) => row.pid }),
    text("Kind", "worker_type"),
    { title: "Runs", cell: (row) => (row.runs ?? []).join(", "), value: (row) => (row.runs ?? []).join() },
    text("Actor", "actor"),
    { title: "Node", cell: (row) => short(row.node_id), value: (row) => row.node_id, ...minor },
    text("Job", "job_id", minor),
  ],
  {
    key: (row) => row.worker_id,
    sort: 0,
    open: (row, context) =>
      show(`Process ${row.pid}`, fieldsOf(withoutKey(row)), [
        ...(row.worker_type === "DRIVER" ? [] : [stack(row.pid, row.node_id), flame(row.pid, row.node_id), log(row.pid, row.worker_id, row.node_id, () => context.rows("logs"))]),
      ]),
  },
  ["logs"],
);

async function stopJob(row) {
  if (!confirm(`Stop ${row.submission_id}? What it has started ends with it.`)) return "It goes on.";
  const { stopped } = await ask(`/api/jobs/${encodeURIComponent(row.submission_id)}/stop`, { method: "POST" });
  return stopped ? "It was told to stop." : "It had ended already.";
}

const jobLog = (row, context) => ({
  label: "Log",
  act: async () => {
    const name = `job-driver-${row.submission_id}.log`;
    if (!context.rows("logs")?.has(name)) throw new Error("It has printed nothing on this node.");
    document.getElementById("dialog").close();
    location.hash = `#/logs/${encodeURIComponent(name)}`;
  },
});

export const jobs = tableView(
  "jobs",
  "Jobs",
  "jobs",
  [
    opener("Job", (row) => row.submission_id ?? row.job_id),
    state("status"),
    text("Kind", "type", minor),
    text("Command", "entrypoint"),
    { ...number("Began", "start_time", (ms) => clock(ms)), ...minor },
    { ...number("Ended", "end_time", (ms) => clock(ms)), ...minor },
    text("Message", "message", minor),
  ],
  {
    key: (row) => row.submission_id ?? row.job_id,
    sort: 4,
    isDown: true,
    open: (row, context) =>
      show(`Job ${row.submission_id ?? row.job_id}`, fieldsOf(withoutKey(row)), [
        ...(row.submission_id ? [jobLog(row, context)] : []),
        ...(row.submission_id && ["PENDING", "RUNNING"].includes(row.status) ? [{ label: "Stop", act: () => stopJob(row) }] : []),
      ]),
  },
  ["logs"],
);

function withoutKey(row) {
  const { "": _, ...rest } = row;
  return rest;
}

// -------------------------------------------------------------------------------------------------------------- objects

const places = tableView(
  "objects",
  "References",
  "objects",
  [
    opener("Object", (row) => (row.object_id ? `${row.object_id.slice(0, 8)}…${row.object_id.slice(-8)}` : "(no reference)")),
    number("Size", "object_size", bytes),
    text("Where", "place"),
    text("Made at", "call_site"),
    { title: "Held by", cell: (row) => Object.entries(row.held_by ?? {}).map(([what, held]) => `${held} ${what}`).join(", "), ...minor },
    number("Process", "pid", String, minor),
    text("Kind", "reference_type", minor),
  ],
  {
    key: (row) => row[""],
    sort: 1,
    isDown: true,
    open: (row) => show("Object", fieldsOf(withoutKey(row)), row.object_id ? [why(row.object_id)] : []),
  },
);

export const objects = {
  ...places,
  title: "Objects and memory",
  begin(main, context) {
    this.context = context;
    this.store = make("div", { class: "cards" });
    const columns = [text("Made at", "site"), number("Objects", "objects"), number("Size", "bytes", bytes)];
    this.sites = new Table("Lines that made what is in the store", columns, new Here(), { key: (row) => row.site, sort: 2, isDown: true });
    main.append(this.store, make("h3", {}, "By line of code"), this.sites.element, make("h3", {}, "By object"));
    places.begin(main, context);
    this.update("objects");
  },
  update(section) {
    const about = this.context.rows("objects")?.get("");
    if (!about || section !== "objects") return;
    this.store.replaceChildren(storeCard(about.store), moreCard(about, this.context.rows("objects").size - 1));
    this.sites.rows.set(Object.entries(about.sites).map(([site, sums]) => ({ site, ...sums })));
    this.sites.update();
    places.update(section);
  },
};

function meter(name, used, total, words) {
  const value = `${words(used)} of ${words(total)}`;
  return make(
    "div",
    { class: "meter" },
    make("span", {}, name),
    make("span", {}, value),
    make("meter", { "aria-label": `${name}: ${value}`, min: 0, max: total || 1, value: used }),
  );
}

function storeCard(store) {
  return make(
    "section",
    { class: "card", "aria-label": "Object store" },
    make("h3", {}, "Object store"),
    meter("In the hands of processes", store.granted_bytes, store.capacity_bytes, bytes),
    make("p", {}, `Written to disk so far: ${bytes(store.total_spilled_bytes)} in ${count(store.total_spilled_objects)} objects`),
    make("p", {}, `Brought back: ${bytes(store.total_restored_bytes)} in ${count(store.total_restored_objects)} objects`),
  );
}

function moreCard(about, listed) {
  const note = about.references > listed ? `The ${count(listed)} largest of ${count(about.references)} references are listed.` : `${count(about.references)} references.`;
  return make(
    "section",
    { class: "card", "aria-label": "References" },
    make("h3", {}, "References"),
    make("p", {}, note),
    make("p", { class: "soft" }, "The line is known of large objects that were put; RAY_record_ref_creation_sites=1 records all."),
  );
}

// ------------------------------------------------------------------------------------------------------------- overview

const nodeCard = (row) =>
  make(
    "section",
    { class: "card", "aria-label": `Node ${row.node_name}` },
    make("h3", {}, `${row.node_name}${row.is_head_node ? " (head)" : ""} `, stateOf(row.state)),
    make("p", { class: "soft" }, row.node_id),
    row.state_message ? make("p", {}, row.state_message) : null,
    row.state === "ALIVE"
      ? Object.entries(row.resources_total).map(([name, total]) =>
          meter(name, total - (row.resources_available[name] ?? 0), total, name.includes("memory") ? bytes : (amount) => String(+amount.toFixed(4))),
        )
      : null,
  );

const lines = (title, all, none) =>
  make("section", { class: "card", "aria-label": title }, make("h3", {}, title), all.length ? make("pre", { tabindex: 0 }, all.join("\n")) : make("p", { class: "soft" }, none));

export const overview = {
  name: "overview",
  title: "Overview",
  sections: ["nodes", "jobs", "actors"],
  begin(main, context) {
    this.context = context;
    this.sums = make("div", { class: "cards" });
    this.nodes = make("div", { class: "cards", id: "nodes" });
    this.waiting = make("div", { class: "cards", id: "waiting" });
    main.append(this.sums, make("h3", {}, "What waits, and why"), this.waiting, make("h3", {}, "Nodes"), this.nodes);
    this.sections.forEach((section) => this.update(section));
  },
  update(section) {
    const rows = this.context.rows(section);
    if (!rows) return;
    if (section !== "nodes") return this.sum();
    const nodes = [...rows].filter(([key]) => key !== "waiting" && key !== "store").map(([, row]) => row);
    nodes.sort((left, right) => right.is_head_node - left.is_head_node || left.state.localeCompare(right.state));
    this.nodes.replaceChildren(...nodes.slice(0, 200).map(nodeCard));
    const waiting = rows.get("waiting");
    const focused = document.activeElement?.closest("#waiting pre");
    const number = [...this.waiting.querySelectorAll("pre")].indexOf(focused);
    this.waiting.replaceChildren(
      lines("Demand", waiting.demands, "Nothing waits for resources."),
      ...(waiting.nodes.length ? [lines("Nodes to come", waiting.nodes, "")] : []),
      ...(waiting.failures.length ? [lines("Recent failures", waiting.failures, "")] : []),
    );
    if (number >= 0) this.waiting.querySelectorAll("pre")[number]?.focus();
    this.sum();
  },
  sum() {
    const tally = (section, name) => {
      const tallied = new Map();
      for (const [key, row] of this.context.rows(section) ?? []) {
        if (key !== "waiting" && key !== "store") tallied.set(row[name], (tallied.get(row[name]) ?? 0) + 1);
      }
      return [...tallied].map(([word, number]) => make("p", {}, stateOf(word), ` ${count(number)}`));
    };
    const card = (title, view, section, name) =>
      make("section", { class: "card", "aria-label": title }, make("h3", {}, make("a", { href: `#/${view}` }, title)), this.context.rows(section) ? tally(section, name) : "…");
    const held = document.activeElement?.closest(".card a")?.getAttribute("href");
    this.sums.replaceChildren(
      ...[card("Jobs", "jobs", "jobs", "status"), card("Actors", "actors", "actors", "state")],
      ...(this.context.rows("nodes") ? [storeCard(this.context.rows("nodes").get("store"))] : []),
    );
    if (held) this.sums.querySelector(`a[href="${held}"]`)?.focus();
  },
};
