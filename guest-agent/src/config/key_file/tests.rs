//! What GLib does with these was seen with qemu-ga 7.2 (`tests/it/options.rs` asks it again).

use super::*;
use proptest::prelude::*;

fn group(file: &KeyFile) -> &Group {
    file.groups().iter().find(|group| group.name() == "g").unwrap()
}

fn get(text: &str, key: &str) -> Option<String> {
    group(&KeyFile::parse(text.as_bytes()).unwrap()).string(key).unwrap()
}

fn refused(text: &[u8]) -> String {
    KeyFile::parse(text).unwrap_err().to_string()
}

#[test]
fn comments_blanks_groups_and_the_last_value() {
    let text = "# c\n\n \t# d\n [g] \t\n  a  =  b c  \n#x=1\n[h]\na=other\n[g]\nd=\na=\tz\r\ne=f=g";
    assert_eq!(get(text, "a").as_deref(), Some("z"));
    assert_eq!(get(text, "d").as_deref(), Some(""));
    assert_eq!(get(text, "e").as_deref(), Some("f=g"));
    assert_eq!(get(text, "x"), None);
    assert_eq!(get("[g]\n a = b c  \n", "a").as_deref(), Some("b c  "));
    assert_eq!(get("[g]\na[de]=b\n", "a"), None);
    assert_eq!(get("[g]\na b=c\n", "a b").as_deref(), Some("c"));
    assert_eq!(get("[g]\na=b\0c\n", "a").as_deref(), Some("b"));
}

#[test]
fn escapes_are_resolved_and_others_refused() {
    assert_eq!(get("[g]\na=\\s\\t\\n\\r\\\\\n", "a").as_deref(), Some(" \t\n\r\\"));
    for value in ["\\q", "\\", "a\\;b"] {
        let file = KeyFile::parse(format!("[g]\na={value}\n").as_bytes()).unwrap();
        let error = group(&file).string("a").unwrap_err();
        let text = "Key file contains key “a” which has a value that cannot be interpreted.";
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn booleans_are_these_four() {
    let file = KeyFile::parse(b"[g]\na=true \nb=1\nc=false\nd=0\nx=yes\ny=\nz=TRUE\n").unwrap();
    let group = group(&file);
    let read = |key| group.boolean(key).unwrap();
    assert_eq!(
        [read("a"), read("b"), read("c"), read("d")].map(Option::unwrap),
        [true, true, false, false]
    );
    assert_eq!(read("none"), None);
    for key in ["x", "y", "z"] {
        assert!(matches!(group.boolean(key), Err(KeyFileError::Value(_))), "{key}");
    }
}

#[test]
fn what_is_malformed_is_named() {
    let line = |line: &str| {
        format!("Key file contains line “{line}” which is not a key-value pair, group, or comment")
    };
    assert_eq!(refused(b"a=b\n"), "Key file does not start with a group");
    assert_eq!(refused(b"[g]\nabc\n"), line("abc"));
    assert_eq!(refused(b"[g\n"), line("[g"));
    assert_eq!(refused(b"[g]x\n"), line("[g]x"));
    assert_eq!(refused(b"[g]\n =z\n"), line(" =z"));
    assert_eq!(refused(b"\xEF\xBB\xBF[g]\n"), line("\u{FEFF}[g]"));
    assert_eq!(refused(b"[]\n"), "Invalid group name: ");
    assert_eq!(refused(b"[a[b]\n"), "Invalid group name: a[b");
    assert_eq!(refused(b"[g]\na[b=c\n"), "Invalid key name: a[b");
    assert_eq!(
        refused(b"[g]\nEncoding=latin1\n"),
        "Key file contains unsupported encoding “latin1”"
    );
    let file = KeyFile::parse(b"[g]\na=\xFF\n").unwrap();
    assert_eq!(
        group(&file).string("a").unwrap_err().to_string(),
        "Key file contains key “a” with value “\u{FFFD}” which is not UTF-8"
    );
}

/// The fuzz entry: whatever the bytes are, every value of what is accepted can be asked for.
fn fuzz(bytes: &[u8]) {
    let Ok(file) = KeyFile::parse(bytes) else { return };
    for group in file.groups() {
        for key in group.keys() {
            let _ = group.boolean(&key);
            if let Ok(Some(value)) = group.string(&key) {
                // What is written is read back. A zero byte ends a line, so no value has one.
                let mut text = String::from("[g]\n");
                write(&mut text, "k", &value);
                assert_eq!(get(&text, "k"), Some(value));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        fuzz(&bytes);
    }

    #[test]
    fn bytes_that_look_like_it(text in "(\\[[a-z \\[]{0,3}\\]?[ x]?\n|[ a\\[\\]]{0,3}=?[ \\\\snqt;1]{0,4}\r?\n){0,8}") {
        fuzz(text.as_bytes());
    }
}

#[test]
fn the_corpus() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/key_file");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        fuzz(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 8, "{count} files in {dir}");
}
