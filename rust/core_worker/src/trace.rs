//! Tasks that have ended as a trace in Chrome's format, as text: a page of a listing is some hundred kilobytes of it.

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

impl TraceRows {
    /// The events of these tasks, with a comma between any two: of each its execution, and the time that it waited before.
    pub fn events(&mut self, rows: &[TaskRow]) -> String {
        let mut text = String::new();
        for row in rows {
            let (Some(worker), Some(start), Some(end)) = (&row.worker, row.start_us, row.end_us) else {
                continue;
            };
            let node = self.number_of(&worker.node_id);
            if self.named.insert((node, worker.pid)) {
                event(&mut text, |text| {
                    write!(
                        text,
                        r#""name": "thread_name", "ph": "M", "pid": {node}, "tid": {pid}, "args": {{"name": "worker {pid}"}}"#,
                        pid = worker.pid
                    )
                });
            }
            add_task(&mut text, row, (node, worker.pid), (start, end));
        }
        text
    }

    fn number_of(&mut self, node: &[u8]) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(hex(node)).or_insert(next)
    }
}

fn event(text: &mut String, body: impl FnOnce(&mut String) -> std::fmt::Result) {
    text.push_str(if text.is_empty() { "{" } else { ", {" });
    body(text).expect("a string takes all");
    text.push('}');
}

fn add_task(text: &mut String, row: &TaskRow, (node, pid): (u32, u32), (start, end): (u64, u64)) {
    let task = row.task_id.hex();
    let place = format!(r#""name": {}, "pid": {node}, "tid": {pid}"#, quoted(&row.name));
    let mut about = format!(
        r#"{{"task_id": "{task}", "attempt": {}, "job_id": "{}", "state": "{}""#,
        row.attempt,
        hex(&row.job_id),
        row.state
    );
    if !row.actor_id.is_empty() {
        let _ = write!(about, r#", "actor_id": "{}""#, hex(&row.actor_id));
    }
    about.push('}');
    let colour = if row.state == "FINISHED" {
        "rail_load"
    } else {
        "terrible"
    };
    event(text, |text| {
        write!(
            text,
            r#"{place}, "cat": "task:execution", "ph": "X", "ts": {start}, "dur": {}, "cname": "{colour}", "args": {about}"#,
            end.saturating_sub(start)
        )
    });
    let Some(submitted) = row.submitted_us else { return };
    let waiting = format!(r#"{place}, "cat": "task:queued", "id": "{task}-{}""#, row.attempt);
    event(text, |text| {
        write!(text, r#"{waiting}, "ph": "b", "ts": {submitted}, "args": {about}"#)
    });
    event(text, |text| {
        write!(text, r#"{waiting}, "ph": "e", "ts": {start}, "args": {{}}"#)
    });
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
        let text = rows.events(&[row(3), row(3)]);
        assert_eq!(
            (text.matches("thread_name").count(), text.matches("worker 3").count()),
            (1, 1)
        );
        assert_eq!(text.matches(r#""ph": "X", "ts": 10, "dur": 20"#).count(), 2);
        assert_eq!(text.matches(r#""ph": "b", "ts": 5"#).count(), 2);
        assert_eq!(text.matches(r#""ph": "e", "ts": 10"#).count(), 2);
        assert!(text.contains(r#""name": "a \"name\"\u000a", "pid": 2, "tid": 3"#));
        assert!(!rows.events(&[row(3)]).contains("thread_name"));
        assert_eq!(rows.numbers["07"], 2);
    }

    #[test]
    fn what_ran_nowhere_is_not_in_it() {
        let nowhere = TaskRow { worker: None, ..row(1) };
        assert_eq!(TraceRows::default().events(&[nowhere]), "");
    }
}
