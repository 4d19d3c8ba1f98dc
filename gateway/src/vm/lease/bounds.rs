//! How much text of guests and callers a lease keeps. Leases stay for days, thousands of them, and
//! whoever fills one with words fills memory, disk and answers.

/// The longest sentence, name or id, in bytes.
const LONGEST: usize = 1024;
/// How many names are kept of one VM, and how many bytes of them.
const NAMES: usize = 64;
const NAMES_BYTES: usize = 16 << 10;

/// A text, cut and marked as cut where it is too long.
pub(crate) fn cut(mut text: String) -> String {
    const MARK: &str = "… (cut)";
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - MARK.len()));
        text.push_str(MARK);
        text.shrink_to_fit();
    }
    text
}

/// The first of these names, each once and in order; the last line says how many more there are.
pub(crate) fn few(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut names: Vec<String> = names.into_iter().map(cut).collect();
    let mut bytes = 0;
    let fits = |name: &&String| {
        bytes += name.len();
        bytes <= NAMES_BYTES
    };
    let kept = names.iter().take(NAMES).take_while(fits).count();
    let more = names.len() - kept;
    if more > 0 {
        names.truncate(kept);
        names.push(format!("… and {more} more"));
        names.shrink_to_fit();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(cut("é".into()), "é");
        let just = "x".repeat(LONGEST);
        assert_eq!(cut(just.clone()), just);
        for text in ["x".repeat(5000), "é".repeat(5000), format!("x{}", "𝄞".repeat(5000))] {
            let cut = cut(text.clone());
            assert!(cut.len() <= LONGEST && cut.len() > LONGEST - 20, "{}", cut.len());
            let kept = cut.strip_suffix("… (cut)").expect("marked");
            assert!(text.starts_with(kept));
        }
    }

    #[test]
    fn of_many_names_the_first_are_kept_and_the_rest_is_counted() {
        let names = |n: usize, len: usize| (0..n).map(move |i| format!("/{i:0len$}"));
        assert_eq!(few(["/b", "/a", "/b"].map(String::from)), ["/a", "/b"]);
        assert_eq!(few(names(NAMES, 3)).len(), NAMES);
        let few_of = few(names(NAMES + 3, 3));
        assert_eq!((few_of.len(), few_of[NAMES].as_str()), (NAMES + 1, "… and 3 more"));
        let long = few(names(1000, 5000));
        assert!(long.iter().map(String::len).sum::<usize>() <= NAMES_BYTES + 32);
        assert!(long.last().is_some_and(|line| line.ends_with("more")));
    }
}
