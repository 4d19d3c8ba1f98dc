//! What a newcomer reads.

use std::fmt::{Arguments, Display};
use std::io::{self, Write};

/// Starts a step.
pub(crate) fn step(title: impl Display) {
    write(format_args!("\n==> {title}\n"));
}

/// Says something about the step.
pub(crate) fn say(text: impl Display) {
    for line in text.to_string().lines() {
        write(format_args!("    {line}\n"));
    }
}

/// A line of its own.
pub(crate) fn plain(text: impl Display) {
    write(format_args!("{text}\n"));
}

/// A terminal that has gone is no reason to leave things behind, so failures are ignored.
fn write(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    drop(out.write_fmt(text).and_then(|()| out.flush()));
}
