//! Cuts a stream of bytes into lines, and keeps the name that the stream gives to them.

/// Longest line that is passed on whole; a longer one is broken.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Lines that stand under one name.
pub(super) type Named = (String, Vec<String>);

#[derive(Debug, Default)]
pub(super) struct LineCutter {
    name: String,
    /// A line whose end has not come.
    half: Vec<u8>,
    ready: Vec<Named>,
}

impl LineCutter {
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.half.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.end_line();
        }
        self.half.extend_from_slice(rest);
        while self.half.len() > MAX_LINE_BYTES {
            let tail = self.half.split_off(MAX_LINE_BYTES);
            self.end_line();
            self.half = tail;
        }
    }

    /// Whatever is there is a line.
    pub fn finish(&mut self) {
        if !self.half.is_empty() {
            self.end_line();
        }
    }

    pub fn take(&mut self) -> Vec<Named> {
        std::mem::take(&mut self.ready)
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.half);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if let Some(name) = marker(&line) {
            self.name = name;
            return;
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        match self.ready.last_mut() {
            Some((name, lines)) if *name == self.name => lines.push(line),
            Some(_) | None => self.ready.push((self.name.clone(), vec![line])),
        }
    }
}

/// The name that a line gives to those after it.
pub(super) fn marker(line: &[u8]) -> Option<String> {
    let name = line
        .strip_prefix(b":task_name:")
        .or_else(|| line.strip_prefix(b":actor_name:"))?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_wherever_the_bytes_are_cut() {
        let text = b":task_name:f\none\r\ntwo\n\n:actor_name:A(1)\nthree\nhalf";
        for step in 1..text.len() {
            let mut cutter = LineCutter::default();
            let mut taken: Vec<Named> = Vec::new();
            for piece in text.chunks(step) {
                cutter.push(piece);
                taken.extend(cutter.take());
            }
            cutter.finish();
            taken.extend(cutter.take());
            let flat: Vec<(String, String)> = taken
                .into_iter()
                .flat_map(|(name, lines)| lines.into_iter().map(move |line| (name.clone(), line)))
                .collect();
            let expected = [
                ("f", "one"),
                ("f", "two"),
                ("f", ""),
                ("A(1)", "three"),
                ("A(1)", "half"),
            ]
            .map(|(a, b)| (a.into(), b.into()));
            assert_eq!(flat, expected);
        }
    }

    #[test]
    fn endless_lines_are_broken() {
        let mut cutter = LineCutter::default();
        cutter.push(&vec![b'x'; 3 * MAX_LINE_BYTES + 1]);
        let lines = &cutter.take()[0].1;
        assert_eq!((lines.len(), lines[0].len(), cutter.half.len()), (3, MAX_LINE_BYTES, 1));
    }
}
