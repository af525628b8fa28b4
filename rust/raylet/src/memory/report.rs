//! The words of an end for want of memory: what was used, by whom, on which node, and what to try.

use std::fmt::Write;

use ray_rs_scheduler::memory::Usage;
use rustc_hash::FxHashMap;

pub(super) struct Story<'a> {
    pub victim: String,
    pub pid: u32,
    pub bytes: u64,
    pub usage: Usage,
    pub line_bytes: u64,
    pub node_ip: &'a str,
    pub node_id: String,
    pub largest: Vec<(u32, u64, String)>,
    /// What our own processes run.
    pub named: &'a FxHashMap<u32, String>,
}

impl Story<'_> {
    pub fn first_line(&self) -> String {
        format!(
            "{} (pid={}) used {} when the node (IP: {}, ID: {}) used {} of {}, more than the {} that may be used",
            self.victim,
            self.pid,
            size(self.bytes),
            self.node_ip,
            self.node_id,
            size(self.usage.used_bytes),
            size(self.usage.limit_bytes),
            size(self.line_bytes),
        )
    }

    /// The rest of the sentence "it was ended because ...".
    pub fn told(&self) -> String {
        let mut text = format!("the node was running out of memory: {}.\n", self.first_line());
        text.push_str("The processes that use most:\nPID\tMEM\tCOMMAND\n");
        for (pid, bytes, command) in &self.largest {
            let what = self.named.get(pid).unwrap_or(command);
            let _ = writeln!(text, "{pid}\t{}\t{what}", size(*bytes));
        }
        text.push_str(
            "Try: fewer tasks at a time, by giving each more `num_cpus` or an amount of `memory`; smaller pieces of work; a \
             node with more memory. `RAY_memory_usage_threshold` moves the line, `RAY_task_oom_retries` limits how often a \
             task is tried again, `RAY_memory_monitor_refresh_ms=0` leaves it all to the kernel.",
        );
        text
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 2] = [("GiB", 1 << 30), ("MiB", 1 << 20)];
    let unit = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    match unit {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_used_how_much_and_where() {
        let named = FxHashMap::from_iter([(7, "task f".to_owned())]);
        let story = Story {
            victim: "task f".to_owned(),
            pid: 7,
            bytes: 300 << 20,
            usage: Usage {
                used_bytes: 3 << 29,
                limit_bytes: 2 << 30,
                stalled: false,
            },
            line_bytes: 1 << 30,
            node_ip: "10.0.0.1",
            node_id: "ab".to_owned(),
            largest: vec![(7, 300 << 20, "python".to_owned()), (9, 5 << 10, "cat big".to_owned())],
            named: &named,
        };
        let text = story.told();
        for part in [
            "task f (pid=7) used 300.0 MiB",
            "node (IP: 10.0.0.1, ID: ab) used 1.5 GiB of 2.0 GiB",
            "7\t300.0 MiB\ttask f\n9\t5 KiB\tcat big\n",
            "Try: ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
