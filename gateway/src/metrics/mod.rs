//! Figures: what is counted and timed while the gateway works, and how it is written for
//! Prometheus.
//!
//! ```text
//!   vm/session ── commands ─┐
//!   vm/freeze ─── freezes ──┤                    families (the list of all of them)
//!   store ─────── writes ───┼─▶ api/metrics ──▶ page ──▶ text, as Prometheus or OpenMetrics reads it
//!   api/front ─── requests ─┘    also reads the registry's and the leases' present state
//! ```
//!
//! Counting is an atomic addition. Nothing here grows with what guests or callers send: commands are
//! those of the one table, routes those of the document, and histograms are by command and route,
//! not by VM. prometheus-client writes OpenMetrics only, and keeps series by label in maps of its
//! own; both formats for a caller's share of the VMs are less code than bending it.

pub(crate) mod commands;
pub(crate) mod family;
pub(crate) mod freezes;
mod number;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod requests;
mod writes;

pub(crate) use self::commands::{CommandFigures, CommandOutcome};
pub(crate) use self::freezes::FreezeFigures;
pub(crate) use self::number::{Counter, Histogram};
pub(crate) use self::requests::RequestFigures;
pub(crate) use self::writes::WriteFigures;
