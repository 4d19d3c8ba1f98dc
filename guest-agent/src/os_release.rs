//! os-release(5): what the distribution says of itself.
//!
//! Read as qemu-ga does, but for two things: it takes a value in single quotes for one without
//! quotes, and knows nothing at all of a file in which a single line is none.

use std::path::Path;

use qga_proto::command::OsInfo;

use crate::bounded;

/// Where the file may be, below the root.
const FILES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// The bytes of the file that says it; of `chosen` alone if there is one.
pub(crate) fn read(root: &Path, chosen: Option<&Path>) -> Vec<u8> {
    let read = |path: &Path| bounded::read(path, bounded::SMALL);
    match chosen {
        Some(path) => read(path).ok(),
        None => FILES.iter().find_map(|file| read(&root.join(file)).ok()),
    }
    .unwrap_or_default()
}

/// Fills in what the file says. Of several lines for one key the last counts.
pub(crate) fn parse(file: &[u8], info: &mut OsInfo) {
    for line in file.split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line.trim_ascii());
        let Some((key, value)) = line.split_once('=') else { continue };
        let field = match key.trim_ascii_end() {
            "ID" => &mut info.id,
            "NAME" => &mut info.name,
            "PRETTY_NAME" => &mut info.pretty_name,
            "VERSION" => &mut info.version,
            "VERSION_ID" => &mut info.version_id,
            "VARIANT" => &mut info.variant,
            "VARIANT_ID" => &mut info.variant_id,
            _ => continue,
        };
        *field = Some(unquote(value.trim_ascii_start()));
    }
}

fn unquote(value: &str) -> String {
    if let Some(quoted) = value.strip_prefix('"') {
        return unescape(quoted);
    }
    let (value, ends): (_, &[char]) = match value.strip_prefix('\'') {
        Some(quoted) => (quoted, &['\'']),
        None => (value, &[' ', ';']),
    };
    value.split(ends).next().unwrap_or_default().to_owned()
}

/// Up to the closing quote. A backslash only counts before what the shell knows it before.
fn unescape(quoted: &str) -> String {
    let mut value = String::with_capacity(quoted.len());
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.push(
                characters
                    .next_if(|next| matches!(next, '$' | '\'' | '"' | '\\' | '`'))
                    .unwrap_or('\\'),
            ),
            _ => value.push(character),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn parsed(file: &str) -> OsInfo {
        let mut info = OsInfo::default();
        parse(file.as_bytes(), &mut info);
        info
    }

    #[test]
    fn values_are_unquoted_as_qemu_ga_does() {
        let cases = [
            (r#"NAME="Debian GNU/Linux""#, "Debian GNU/Linux"),
            (r#"NAME="\$x \"q\" \\ \` \n \' y""#, r#"$x "q" \ ` \n ' y"#),
            ("NAME=12;bar baz", "12"),
            ("NAME=debian stuff", "debian"),
            (r#"NAME="ab"cd"#, "ab"),
            (r#"NAME="ab" # cd"#, "ab"),
            (r#"NAME=x\ny\"z"#, r#"x\ny\"z"#),
            (r#"NAME=a"b c""#, r#"a"b"#),
            ("  NAME  =   lead trail   ", "lead"),
            ("NAME=", ""),
            ("NAME=\"\"", ""),
            ("NAME=a\nNAME=b", "b"),
            ("NAME=y\r\nID=z", "y"),
            ("NAME=\"é\"", "é"),
            // Where qemu-ga is wrong.
            ("NAME='single quoted' x", "single quoted"),
            ("NAME=\"open", "open"),
            ("not a line\nNAME=x", "x"),
        ];
        for (file, name) in cases {
            assert_eq!(parsed(file).name.as_deref(), Some(name), "{file}");
        }
        assert_eq!(parsed("#NAME=x\nNAMES=y\nname=z"), OsInfo::default());
    }

    #[test]
    fn every_key_has_its_member() {
        let info = parsed(
            "ID=a\nNAME=b\nPRETTY_NAME=c\nVERSION=d\nVERSION_ID=e\nVARIANT=f\nVARIANT_ID=g\n",
        );
        let found = [
            info.id,
            info.name,
            info.pretty_name,
            info.version,
            info.version_id,
            info.variant,
            info.variant_id,
        ];
        assert_eq!(found.map(Option::unwrap), ["a", "b", "c", "d", "e", "f", "g"]);
    }

    #[test]
    fn the_chosen_file_is_the_only_one() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path(), None), b"");
        std::fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        std::fs::write(root.path().join(FILES[1]), "usr").unwrap();
        assert_eq!(read(root.path(), None), b"usr");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join(FILES[0]), "etc").unwrap();
        assert_eq!(read(root.path(), None), b"etc");
        assert_eq!(read(root.path(), Some(Path::new("/nonexistent"))), b"");
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("os-release", |bytes| parse(bytes, &mut OsInfo::default()));
    }
}
