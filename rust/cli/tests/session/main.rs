//! Whole sessions with real processes: a gcs and a raylet as they are, and this program in the part of Python.
//!
//! Started as `python` (through a shell script that the launcher is given) it is a daemon, or a zygote whose workers
//! are programs instead of forks. Started with no part it runs the stories below, one after another.

mod client;
mod parts;
mod stories;

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
            story();
            println!("session story {name} ... ok ({} ms)", started.elapsed().as_millis());
        }
    }
}
