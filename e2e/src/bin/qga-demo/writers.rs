//! What the programs that write inside the guest show about a freeze.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use qga_e2e::{Control, Progress};

/// How far each writer is, by filesystem.
pub(crate) type Writers = BTreeMap<String, Progress>;

/// Looks once.
///
/// # Errors
/// The guest does not answer, or a writer has given up.
pub(crate) fn look(control: &mut Control) -> Result<Writers> {
    let writers = control.writers()?;
    for (name, writer) in &writers {
        if let Some(error) = &writer.error {
            bail!("the program that writes to {name} gave up: {error}");
        }
    }
    Ok(writers)
}

/// How many records each has finished between two looks, as in `ext4 +80  xfs +75`.
pub(crate) fn gained(before: &Writers, after: &Writers) -> String {
    let gain = |(name, writer): (&String, &Progress)| {
        let start = before.get(name).map_or(0, |b| b.done);
        format!("{name} +{}", writer.done.saturating_sub(start))
    };
    after.iter().map(gain).collect::<Vec<_>>().join("   ")
}

/// Whether every writer has finished something between two looks.
pub(crate) fn all_went_on(before: &Writers, after: &Writers) -> bool {
    after.iter().all(|(name, writer)| before.get(name).is_some_and(|b| writer.done > b.done))
}

/// Whether every writer hangs in a record, the same one in both looks.
pub(crate) fn all_blocked(before: &Writers, after: &Writers) -> bool {
    before == after && after.values().all(|writer| writer.begun > writer.done)
}
