//! In a process of its own, since it is about all of a process's code.

use std::fs;

use ray_rs_transport::code_pages::give_back_code;

/// Bytes of files that this process has mapped and cannot write to.
fn mapped_code() -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("there is /proc");
    let (mut is_code, mut kib) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if first == "Rss:" && is_code {
            kib += second.parse::<usize>().expect("a number");
        } else if !first.ends_with(':') {
            is_code = second == "r-xp" && line.contains('/');
        }
    }
    kib << 10
}

#[test]
fn code_is_given_back_and_runs_again() {
    let before = mapped_code();
    assert!(give_back_code() >= 2, "the program and the C library at least");
    let after = mapped_code();
    // To look at it takes code as well, with the neighbours of each page.
    assert!(after < before / 4 * 3, "{before} bytes before, {after} after");
    // What was run before, and what was not.
    assert_eq!(format!("{:.3}", 2.0_f64.sqrt()), "1.414");
    assert!(std::thread::spawn(|| "7".parse::<u8>()).join().expect("it ran") == Ok(7));
}
