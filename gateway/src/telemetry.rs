//! Logs: one line per event on standard error.
//!
//! A standard error that is closed, full or read by nobody must stop neither a request nor a
//! thaw: lines go through `lossy`, which never waits and never fails.

mod lossy;

use std::io::IsTerminal;
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use self::lossy::Lossy;
use crate::printable::printable;

/// How long the end of the process waits for the last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes the last lines when it is dropped, within a bound.
#[derive(Debug)]
#[must_use]
pub struct Logs(Option<Lossy>);

impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(log) = &self.0 {
            log.finish(LAST_LINES);
        }
    }
}

/// Sends logs to standard error. `RUST_LOG` says which, else the configuration's `filter`; `info` and
/// above by default.
///
/// # Errors
///
/// If `RUST_LOG` cannot be understood, or logs already go somewhere.
pub fn init(format: LogFormat, filter: Option<&str>) -> anyhow::Result<Logs> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text)?,
        _ => EnvFilter::try_new(filter.unwrap_or("info"))?,
    };
    // A standard error that is closed is none: then there are no logs.
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else {
        std::panic::set_hook(Box::new(|_| {}));
        return Ok(Logs(None));
    };
    let said = match format {
        LogFormat::Text => |lost| text_line("WARN", &lost_lines(lost), None),
        LogFormat::Json => |lost| json_line("WARN", &lost_lines(lost), None),
    };
    let log = Lossy::start(stderr, said).context("the log's thread cannot start")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        // It would complain on the standard error that has just failed, and panic.
        .log_internal_errors(false)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match format {
        LogFormat::Text if under_journald() => builder.without_time().try_init(),
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(anyhow::Error::from_boxed)?;
    log_panics(log.clone(), format);
    Ok(Logs(Some(log)))
}

/// The journal has its own time stamps.
fn under_journald() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// A panic is a log line too, with its place. It does not go through the subscriber: a panic in
/// there would end the process.
fn log_panics(log: Lossy, format: LogFormat) {
    std::panic::set_hook(Box::new(move |panic| {
        let cause = printable(panic.payload_as_str().unwrap_or("no message"));
        let place = panic.location().map(ToString::to_string);
        let line = match format {
            LogFormat::Text => text_line,
            LogFormat::Json => json_line,
        };
        log.push(line("ERROR", &format!("panic: {cause}"), place.as_deref()).as_bytes());
    }));
}

fn lost_lines(lost: u64) -> String {
    format!("{lost} log lines were lost here: nobody read standard error in time")
}

fn text_line(level: &str, message: &str, place: Option<&str>) -> String {
    let time = if under_journald() { String::new() } else { now() + " " };
    let place = place.map(|place| format!(" place={place:?}")).unwrap_or_default();
    format!("{time}{level:>5} {message}{place}\n")
}

fn json_line(level: &str, message: &str, place: Option<&str>) -> String {
    let line = serde_json::json!({
        "timestamp": now(), "level": level, "message": message, "place": place,
    });
    format!("{line}\n")
}

fn now() -> String {
    jiff::Timestamp::try_from(SystemTime::now()).map(|now| now.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_lines_look_like_the_others() {
        let text = text_line("ERROR", "panic: why", Some("a.rs:1:2"));
        assert!(text.ends_with("ERROR panic: why place=\"a.rs:1:2\"\n"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&json_line("WARN", &lost_lines(3), None)).unwrap();
        assert_eq!(
            (&json["level"], json["message"].as_str().unwrap().starts_with("3 log")),
            (&"WARN".into(), true)
        );
    }
}
