//! How far a copy is, for who watches a terminal.

use std::io::{IsTerminal as _, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qga_gateway::client::printable;

/// How often it is drawn in a second.
const RATE: u8 = 8;

/// A bar on standard error; none if that is no terminal, or if nothing is to be shown.
pub(super) fn bar(quiet: bool, name: &str, size: Option<u64>, at: u64) -> ProgressBar {
    if quiet || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let target = ProgressDrawTarget::stderr_with_hz(RATE);
    let bar = ProgressBar::with_draw_target(size, target);
    let look = match size {
        Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(look) {
        bar.set_style(style);
    }
    bar.set_message(printable(name));
    bar.set_position(at);
    // What was there before was not moved in this time.
    bar.reset_eta();
    bar
}
