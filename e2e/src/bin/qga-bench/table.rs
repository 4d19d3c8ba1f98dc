//! Figures side by side.

use serde::Serialize;

use crate::samples::Samples;
use crate::target::Target;

/// What stands in one column of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    Measured(Samples),
    /// Has no meaning for this contestant.
    Blank,
    /// The contestant is not there; the table's notes say why.
    Skipped,
    /// Measuring it failed.
    Failed(String),
}

impl Cell {
    fn samples(&self) -> Option<&Samples> {
        match self {
            Self::Measured(samples) => Some(samples),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Measured(samples) => {
                let (median, min, max) = (samples.median(), samples.min(), samples.max());
                if min == max {
                    short(median)
                } else {
                    format!("{} ({}–{})", short(median), short(min), short(max))
                }
            }
            Self::Blank => "–".into(),
            Self::Skipped => "skipped".into(),
            Self::Failed(_) => "failed".into(),
        }
    }
}

/// One figure of all contestants; the last column is the one that is judged.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) cells: Vec<Cell>,
    #[serde(skip)]
    pub(crate) target: Target,
}

/// Rows with the same contestants.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Where figures come from, and why some are missing.
    pub(crate) notes: Vec<String>,
}

/// A row's last three columns.
#[derive(Debug, Serialize)]
pub(crate) struct Judgement {
    /// Ours by that of each other column, unless that is nothing.
    pub(crate) ratios: Vec<Option<f64>>,
    pub(crate) target: String,
    pub(crate) verdict: &'static str,
}

impl Table {
    pub(crate) fn judge(&self, row: &Row) -> Judgement {
        let ours = row.cells.last().and_then(Cell::samples);
        let ratios: Vec<Option<f64>> = row.cells[..row.cells.len().saturating_sub(1)]
            .iter()
            .map(|cell| Some(ours?.ratio_to(cell.samples()?)).filter(|ratio| ratio.is_finite()))
            .collect();
        let verdict = match (row.target, row.target.met(ours.map(Samples::median), &ratios)) {
            (Target::Open, _) => "–",
            (_, Some(true)) => "met",
            (_, Some(false)) => "missed",
            (_, None) => "not measured",
        };
        Judgement { target: row.target.text(&self.columns, row.unit), ratios, verdict }
    }

    /// How many figures could not be taken although the contestant is there.
    pub(crate) fn failures(&self) -> usize {
        let failed = |cell: &&Cell| matches!(cell, Cell::Failed(_));
        self.rows.iter().flat_map(|row| &row.cells).filter(failed).count()
    }

    /// The table and its notes as text.
    pub(crate) fn text(&self) -> String {
        let mut head = vec!["figure".to_owned(), "unit".to_owned()];
        head.extend(self.columns.iter().cloned());
        let others = &self.columns[..self.columns.len().saturating_sub(1)];
        head.extend(others.iter().map(|name| format!("ours/{name}")));
        head.extend(["target".to_owned(), "verdict".to_owned()]);
        let mut lines = vec![head];
        for row in &self.rows {
            let judgement = self.judge(row);
            let mut line = vec![row.name.clone(), row.unit.to_owned()];
            line.extend(row.cells.iter().map(Cell::text));
            let ratio = |ratio: &Option<f64>| ratio.map_or_else(|| "–".into(), short);
            line.extend(judgement.ratios.iter().map(ratio));
            line.extend([judgement.target, judgement.verdict.to_owned()]);
            lines.push(line);
        }
        let mut text = format!("{}\n\n{}", self.title, aligned(&lines));
        for row in &self.rows {
            for (cell, column) in row.cells.iter().zip(&self.columns) {
                if let Cell::Failed(cause) = cell {
                    text.push_str(&format!("  failed: {column}: {}: {cause}\n", row.name));
                }
            }
        }
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }
}

/// Three significant digits, and all digits before the point.
fn short(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(&format!("  {}\n", padded.join("  ").trim_end()));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
            text.push_str(&format!("  {}\n", rules.join("  ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Bound;

    fn measured(values: &[f64]) -> Cell {
        let mut samples = Samples::default();
        values.iter().for_each(|&value| samples.push(value));
        Cell::Measured(samples)
    }

    fn table(ours: Cell) -> Table {
        Table {
            title: "Agent".into(),
            columns: ["qemu-ga", "ours"].map(str::to_owned).into(),
            rows: vec![Row {
                name: "ping".into(),
                unit: "µs",
                cells: vec![measured(&[70.0, 80.0, 75.0]), ours],
                target: Target::Ratio(&[(0, Bound::AtMost(0.4))]),
            }],
            notes: vec!["a note".into()],
        }
    }

    #[test]
    fn a_row_shows_medians_extremes_ratio_target_and_verdict() {
        let text = table(measured(&[21.0, 24.0, 22.5])).text();
        let row = text.lines().find(|line| line.contains("ping")).unwrap();
        for part in ["75.0 (70.0–80.0)", "22.5 (21.0–24.0)", "0.30", "≤ 0.4 × qemu-ga", "met"]
        {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(text.ends_with("  a note\n"));
    }

    #[test]
    fn what_is_not_measured_is_neither_met_nor_missed() {
        let skipped = table(Cell::Skipped);
        assert_eq!(
            (skipped.judge(&skipped.rows[0]).verdict, skipped.failures()),
            ("not measured", 0)
        );
        let failed = table(Cell::Failed("it said no".into()));
        assert_eq!(failed.failures(), 1);
        assert!(failed.text().contains("failed: ours: ping: it said no"));
        let missed = table(measured(&[60.0]));
        assert_eq!(missed.judge(&missed.rows[0]).verdict, "missed");
    }
}
