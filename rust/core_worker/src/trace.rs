//! Tasks that have ended as a trace in Chrome's format: the events, and their text.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use crate::task_rows::TaskRow;

/// The rows of the viewer: a process for each node, a thread for each worker.
#[derive(Debug, Default)]
pub struct TraceRows {
    /// Number of each node, by the hexadecimal digits of its id.
    pub numbers: HashMap<String, u32>,
    /// Workers whose row has its name: node's number and pid.
    pub named: HashSet<(u32, u32)>,
}

/// What the viewer is shown.
#[derive(Debug, Clone, Copy)]
pub enum TraceEvent<'a> {
    /// A worker's row gets its name: node's number and pid.
    Worker(u32, u32),
    Ran(TracedTask<'a>),
    /// It waited from its submission to its start.
    Waited(TracedTask<'a>, u64),
}

/// A task and its place in the viewer.
#[derive(Debug, Clone, Copy)]
pub struct TracedTask<'a> {
    pub row: &'a TaskRow,
    /// Number of its node.
    pub node: u32,
    pub pid: u32,
    /// Microseconds since 1970.
    pub start_us: u64,
    pub end_us: u64,
}

impl TraceRows {
    /// The events of these tasks: of each its execution, and the time that it waited before.
    pub fn events<'a>(&mut self, rows: &'a [TaskRow]) -> Vec<TraceEvent<'a>> {
        let mut events = Vec::with_capacity(rows.len() * 2);
        for row in rows {
            let (Some(worker), Some(start_us), Some(end_us)) = (&row.worker, row.start_us, row.end_us) else {
                continue;
            };
            let (node, pid) = (self.number_of(&worker.node_id), worker.pid);
            if self.named.insert((node, pid)) {
                events.push(TraceEvent::Worker(node, pid));
            }
            let task = TracedTask {
                row,
                node,
                pid,
                start_us,
                end_us,
            };
            events.push(TraceEvent::Ran(task));
            events.extend(row.submitted_us.map(|since| TraceEvent::Waited(task, since)));
        }
        events
    }

    fn number_of(&mut self, node: &[u8]) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(hex(node)).or_insert(next)
    }
}

impl TracedTask<'_> {
    /// How long it ran.
    pub fn took_us(&self) -> u64 {
        self.end_us.saturating_sub(self.start_us)
    }

    pub fn colour(&self) -> &'static str {
        if self.row.state == "FINISHED" {
            "rail_load"
        } else {
            "terrible"
        }
    }

    /// Tells this try from all others.
    pub fn id(&self) -> String {
        format!("{}-{}", self.row.task_id.hex(), self.row.attempt)
    }
}

/// The events as objects of JSON, with a comma between any two.
pub fn json_of(events: &[TraceEvent<'_>]) -> String {
    let mut text = String::new();
    for event in events {
        text.push_str(if text.is_empty() { "{" } else { ", {" });
        write_event(&mut text, event).expect("a string takes all");
        text.push('}');
    }
    text
}

fn write_event(text: &mut String, event: &TraceEvent<'_>) -> std::fmt::Result {
    match event {
        TraceEvent::Worker(node, pid) => write!(
            text,
            r#""name": "thread_name", "ph": "M", "pid": {node}, "tid": {pid}, "args": {{"name": "worker {pid}"}}"#
        ),
        TraceEvent::Ran(task) => {
            write_place(text, task)?;
            let (start, took, colour) = (task.start_us, task.took_us(), task.colour());
            write!(
                text,
                r#", "cat": "task:execution", "ph": "X", "ts": {start}, "dur": {took}, "cname": "{colour}", "args": "#
            )?;
            write_about(text, task.row)
        }
        TraceEvent::Waited(task, since) => {
            let waiting = |text: &mut String| {
                write_place(text, task)?;
                write!(text, r#", "cat": "task:queued", "id": "{}""#, task.id())
            };
            waiting(text)?;
            write!(text, r#", "ph": "b", "ts": {since}, "args": "#)?;
            write_about(text, task.row)?;
            text.push_str("}, {");
            waiting(text)?;
            write!(text, r#", "ph": "e", "ts": {}, "args": {{}}"#, task.start_us)
        }
    }
}

fn write_place(text: &mut String, task: &TracedTask<'_>) -> std::fmt::Result {
    let name = quoted(&task.row.name);
    write!(text, r#""name": {name}, "pid": {}, "tid": {}"#, task.node, task.pid)
}

fn write_about(text: &mut String, row: &TaskRow) -> std::fmt::Result {
    let (task, job) = (row.task_id.hex(), hex(&row.job_id));
    write!(
        text,
        r#"{{"task_id": "{task}", "attempt": {}, "job_id": "{job}", "state": "{}""#,
        row.attempt, row.state
    )?;
    if !row.actor_id.is_empty() {
        write!(text, r#", "actor_id": "{}""#, hex(&row.actor_id))?;
    }
    text.push('}');
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("a nibble is a digit");
            text.push(digit(byte >> 4));
            text.push(digit(byte & 15));
            text
        })
}

/// As a string of JSON.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use ray_rs_proto::v1;
    use ray_rs_types::TaskId;
    use ray_rs_types::task_columns::TaskKind;

    use super::*;

    fn row(pid: u32) -> TaskRow {
        TaskRow {
            task_id: TaskId([0xab; 24]),
            attempt: 1,
            name: "a \"name\"\n".to_owned(),
            state: "FINISHED",
            job_id: vec![1],
            actor_id: Vec::new(),
            kind: TaskKind::Normal,
            parent: Vec::new(),
            worker: Some(v1::WorkerAddress {
                node_id: vec![7],
                worker_id: vec![8],
                pid,
            }),
            error_type: None,
            submitted_us: Some(5),
            start_us: Some(10),
            end_us: Some(30),
            error_message: None,
        }
    }

    #[test]
    fn a_worker_is_named_once_and_a_task_has_its_run_and_its_wait() {
        let mut rows = TraceRows::default();
        rows.numbers.insert("01".to_owned(), 1);
        let text = json_of(&rows.events(&[row(3), row(3)]));
        assert_eq!(
            (text.matches("thread_name").count(), text.matches("worker 3").count()),
            (1, 1)
        );
        assert_eq!(text.matches(r#""ph": "X", "ts": 10, "dur": 20"#).count(), 2);
        assert_eq!(text.matches(r#""ph": "b", "ts": 5"#).count(), 2);
        assert_eq!(text.matches(r#""ph": "e", "ts": 10"#).count(), 2);
        assert!(text.contains(r#""name": "a \"name\"\u000a", "pid": 2, "tid": 3"#));
        assert!(!json_of(&rows.events(&[row(3)])).contains("thread_name"));
        assert_eq!(rows.numbers["07"], 2);
    }

    #[test]
    fn what_ran_nowhere_is_not_in_it() {
        let nowhere = TaskRow { worker: None, ..row(1) };
        assert!(TraceRows::default().events(&[nowhere]).is_empty());
    }
}
