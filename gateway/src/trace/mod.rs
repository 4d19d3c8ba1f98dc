//! Traces: a request's place in a caller's trace (W3C Trace Context), and what the gateway tells a
//! collector of it (OTLP over HTTP), if one is configured.
//!
//! ```text
//!   traceparent, tracestate ──▶ Trace ──▶ log line, answer's traceparent
//!                                 │  with an exporter, if sampled
//!                                 └─▶ Span, and one per guest command ──▶ bounded queue ──▶ batches
//! ```
//!
//! Without an exporter a request costs what looking for one header costs. With one, whoever pushes a
//! span never waits: a collector that is slow or gone costs spans, which are counted.
//!
//! The four messages of OTLP that are needed are written here (`otlp`): opentelemetry's crates would
//! bring 25 others, among them h2, prost and rand, and a span of `tracing` for each request.

mod context;
mod export;
mod otlp;
mod span;

pub(crate) use self::context::{TRACEPARENT, Trace};
pub use self::export::Exporter;
pub(crate) use self::span::{CallSpan, Span};
