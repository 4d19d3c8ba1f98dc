//! The text of a scrape, as Prometheus (0.0.4) or OpenMetrics (1.0.0) has it.

use std::fmt::{self, Write as _};

use super::Histogram;
use super::family::{Family, Kind, Scope};

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text so far.
#[derive(Debug)]
pub(crate) struct Page {
    format: Format,
    /// It may tell of the gateway as a whole.
    whole: bool,
    text: String,
}

impl Page {
    /// For somebody who may observe all VMs there are, or only some.
    pub(crate) fn new(format: Format, whole: bool) -> Self {
        Self { format, whole, text: String::with_capacity(16 << 10) }
    }

    /// Begins a family; each once. Without samples nothing of it is written, nor if its reader may
    /// not have it.
    pub(crate) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        Samples { page: self, family, begun: false }
    }

    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Writes the samples of one family. No two may have the same labels.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    page: &'a mut Page,
    family: &'static Family,
    begun: bool,
}

impl Samples<'_> {
    /// One sample, with the values of the family's labels in their order.
    pub(crate) fn add(&mut self, labels: &[&str], value: impl fmt::Debug) {
        let suffix = if self.family.kind == Kind::Counter { "_total" } else { "" };
        self.line(suffix, labels, None, value);
    }

    pub(crate) fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        let all = histogram.distribution();
        for (le, count) in all.buckets {
            self.line("_bucket", labels, Some(le), count);
        }
        self.line("_bucket", labels, Some("+Inf"), all.count);
        self.line("_sum", labels, None, all.sum.as_secs_f64());
        self.line("_count", labels, None, all.count);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], le: Option<&str>, value: impl fmt::Debug) {
        if self.family.scope == Scope::Gateway && !self.page.whole {
            return;
        }
        self.begin();
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        let text = &mut self.page.text;
        text.push_str(self.family.name);
        text.push_str(suffix);
        let mut before = '{';
        let le = le.map(|le| ("le", le));
        for (name, value) in
            self.family.labels.iter().copied().zip(labels.iter().copied()).chain(le)
        {
            text.push(before);
            before = ',';
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
        }
        if before == ',' {
            text.push('}');
        }
        // A number's Debug is its shortest form, with an exponent where it is far from 1. Writing to
        // a string cannot fail.
        let _ = writeln!(text, " {value:?}");
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Family { name, kind, unit, help, .. } = self.family;
        let (text, kind_word) = (&mut self.page.text, kind.as_str());
        // Only OpenMetrics tells a counter's family from its samples.
        let open = self.page.format == Format::OpenMetrics;
        let suffix = if *kind == Kind::Counter && !open { "_total" } else { "" };
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind_word}");
        if open && let Some(unit) = unit {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(text, "# HELP {name}{suffix} {help}");
    }
}

fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static COUNTER: Family = Family {
        name: "a_bytes",
        kind: Kind::Counter,
        unit: Some("bytes"),
        help: "All of them.",
        labels: &["x"],
        scope: Scope::Vm,
    };
    static TIMES: Family = Family {
        name: "b_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "How long.",
        labels: &[],
        scope: Scope::Gateway,
    };

    #[test]
    fn the_two_formats_differ_where_they_must() {
        let text = |format| {
            let mut page = Page::new(format, false);
            let mut samples = page.family(&COUNTER);
            samples.add(&["\"\\\n}"], 7_u64);
            page.family(&TIMES);
            page.finish()
        };
        assert_eq!(
            text(Format::Prometheus),
            "# TYPE a_bytes_total counter\n# HELP a_bytes_total All of them.\n\
             a_bytes_total{x=\"\\\"\\\\\\n}\"} 7\n"
        );
        assert_eq!(
            text(Format::OpenMetrics),
            "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n# HELP a_bytes All of them.\n\
             a_bytes_total{x=\"\\\"\\\\\\n}\"} 7\n# EOF\n"
        );
    }

    #[test]
    fn a_histogram_ends_with_all_sum_and_count() {
        let histogram = Histogram::hold();
        histogram.observe(Duration::from_millis(1500));
        let mut page = Page::new(Format::Prometheus, true);
        page.family(&TIMES).histogram(&[], &histogram);
        let text = page.finish();
        assert!(text.contains("b_seconds_bucket{le=\"1.0\"} 0\nb_seconds_bucket{le=\"2.0\"} 1\n"));
        let end = "b_seconds_bucket{le=\"+Inf\"} 1\nb_seconds_sum 1.5\nb_seconds_count 1\n";
        assert!(text.ends_with(end), "{text}");
        let mut page = Page::new(Format::Prometheus, false);
        page.family(&TIMES).histogram(&[], &histogram);
        assert_eq!(page.finish(), "", "not for everybody");
    }
}
