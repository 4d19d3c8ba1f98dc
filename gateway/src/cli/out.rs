//! What the commands print: tables for people, JSON for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use qga_gateway::client::printable;
use serde_json::Value;

/// Lines of words, in columns.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|word| (*word).to_owned()).collect()])
    }

    /// A line; nothing in it can drive a terminal.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |n: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(n));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let line = row
                .iter()
                .zip(&widths)
                .fold(String::new(), |line, (cell, width)| line + &format!("{cell:width$}  "));
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// To standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("standard output"),
    }
}

pub(super) fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

/// To standard error, with the program's name.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "qga-gateway: {text}");
}

/// Lines to standard error, where standard output is somebody else's.
pub(super) fn tell(lines: &str) {
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// A member's text, or a dash.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How long ago something was, as short as possible.
pub(super) fn ago(time: &Value) -> String {
    let Some(time) = time.as_str().and_then(|time| time.parse::<Timestamp>().ok()) else {
        return "-".into();
    };
    short(Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default())
}

/// How long until then, if it is not over.
pub(super) fn until(time: &Value) -> Option<String> {
    let time = time.as_str()?.parse::<Timestamp>().ok()?;
    Duration::try_from(time.duration_since(Timestamp::now())).ok().map(short)
}

/// The same of so many seconds.
pub(super) fn seconds_ago(seconds: u64) -> String {
    short(Duration::from_secs(seconds))
}

fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_harmless() {
        let mut table = Table::new(&["ID", "STATE"]);
        table.row(["web-1".into(), "ready".into()]);
        table.row(["é".into(), "\x1b[2J".into()]);
        assert_eq!(table.text(), "ID     STATE\nweb-1  ready\né      \\u{1b}[2J\n");
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in
            [(1, "1s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(&Value::Null), "-");
        assert_eq!(until(&"2001-01-01T00:00:00Z".into()), None);
    }
}
