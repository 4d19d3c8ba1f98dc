//! What the guide says of a problem code or a link state. It asks no gateway, so it is at hand when nothing
//! else is.

/// A section per code and per state, which a test of the codes holds to.
const GUIDE: &str = include_str!("../../docs/troubleshooting.md");

/// There is no such code or state.
#[derive(Debug, thiserror::Error)]
#[error("`{word}` is no problem code and no link state; qga-gateway explain lists them")]
pub struct Unknown {
    word: String,
}

/// The section about `word`, a code, a problem's `type` or a link's state; all their names without one.
///
/// # Errors
///
/// If there is no such code or state.
pub fn explain(word: Option<&str>) -> Result<String, Unknown> {
    let Some(word) = word else {
        return Ok(words().map(|name| format!("{name}\n")).collect());
    };
    let word = word.strip_prefix("urn:qga:problem:").unwrap_or(word);
    let found = sections().find(|(name, _)| *name == word);
    match found {
        Some((_, section)) => Ok(format!("{}\n", section.trim_end())),
        None => Err(Unknown { word: word.escape_debug().to_string() }),
    }
}

/// All codes and states that are explained.
pub fn words() -> impl Iterator<Item = &'static str> {
    sections().map(|(name, _)| name)
}

/// Each code or state with its heading and text.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    GUIDE.split("\n### ").skip(1).filter_map(|section| {
        let name = section.split('`').nth(1)?;
        // What follows may begin another chapter.
        Some((name, section.split("\n## ").next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_a_type_and_a_state_are_explained_and_nothing_else() {
        let paused = explain(Some("vm_paused")).unwrap();
        assert!(paused.starts_with("`vm_paused` (409)\n"), "{paused}");
        assert_eq!(explain(Some("urn:qga:problem:vm_paused")).unwrap(), paused);
        let state = explain(Some("paused")).unwrap();
        assert!(state.starts_with("State `paused`\n") && !state.contains("\n## "), "{state}");
        assert!(explain(Some("vm_")).unwrap_err().to_string().contains("explain lists them"));
    }

    #[test]
    fn all_are_listed() {
        let all = explain(None).unwrap();
        assert!(all.starts_with("absent\nrefused\n") && all.ends_with("internal_error\n"), "{all}");
        assert!(all.lines().all(|name| explain(Some(name)).is_ok()));
    }
}
