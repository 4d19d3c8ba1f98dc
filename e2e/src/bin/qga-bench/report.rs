//! Where figures go: standard output, and a file for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::table::Table;

/// All that one run found out.
#[derive(Debug)]
pub(crate) struct Report {
    /// About the machine and the run.
    pub(crate) circumstances: Vec<String>,
    pub(crate) tables: Vec<Table>,
}

impl Report {
    /// Prints tables for people.
    pub(crate) fn print(&self) {
        for line in &self.circumstances {
            say(line);
        }
        for table in &self.tables {
            say(&format!("\n{}", table.text().trim_end()));
        }
    }

    /// Writes every round's values.
    pub(crate) fn write_json(&self, file: &Path) -> Result<()> {
        let tables: Result<Vec<Value>> = self
            .tables
            .iter()
            .map(|table| {
                let judgements: Vec<_> = table.rows.iter().map(|row| table.judge(row)).collect();
                let mut value = serde_json::to_value(table)?;
                for (row, judgement) in judgements.iter().enumerate() {
                    value["rows"][row]["judgement"] = serde_json::to_value(judgement)?;
                }
                Ok(value)
            })
            .collect();
        let whole = json!({ "circumstances": self.circumstances, "tables": tables? });
        fs::write(file, serde_json::to_vec_pretty(&whole)?)
            .with_context(|| format!("writing {}", file.display()))
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn say(line: &str) {
    println!("{line}");
}
