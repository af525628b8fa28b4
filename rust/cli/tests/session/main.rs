//! Whole sessions with real processes: a gcs and a raylet as they are, and this program in the part of Python.
//!
//! Started as `python` (through a shell script that the launcher is given) it is a daemon, or a zygote whose workers
//! are programs instead of forks. Started with no part it runs the stories below, one after another.

mod client;
mod parts;
mod stories;

use std::path::Path;
use std::time::Instant;

fn main() {
    if parts::play() {
        return;
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var(ray_rs_cli::session::ROOT_VARIABLE, root.path()) };
    for (name, story) in stories::ALL {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let started = Instant::now();
            if let Err(panic) = std::panic::catch_unwind(story) {
                print_logs(root.path());
                std::panic::resume_unwind(panic);
            }
            println!("session story {name} ... ok ({} ms)", started.elapsed().as_millis());
        }
    }
}

/// What the sessions' processes wrote, before it is removed with the directory.
fn print_logs(root: &Path) {
    for session in std::fs::read_dir(root).into_iter().flatten().flatten() {
        for log in std::fs::read_dir(session.path().join("logs"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            if !text.is_empty() {
                eprintln!("---- {}\n{text}", log.path().display());
            }
        }
    }
}
